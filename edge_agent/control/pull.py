"""The heavy half of a sync: from signed documents to a plan with all of its files on this device."""

import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Final

from edge_agent import __version__
from edge_agent.control.deadline import Deadline
from edge_agent.control.downloads import Downloads
from edge_agent.control.fetch import Store
from edge_agent.control.metering import Meter
from edge_agent.control.progress import Progress, Report
from edge_agent.control.trust import Trust
from edge_agent.documents.deployment import GROUPS_TARGET, Deployment, Groups, deployment_path
from edge_agent.documents.errors import DocumentError, ModelError
from edge_agent.documents.ipc import SyncProgress, SyncRequest
from edge_agent.documents.manifest import File, Manifest
from edge_agent.documents.plan import Plan, with_id
from edge_agent.documents.reading import read_document
from edge_agent.engines.base import installed
from edge_agent.policy.planning import Device, Selection, compile_plan, files_of, group_of, select
from edge_agent.policy.trusted_time import Times
from edge_agent.policy.waves import next_wave_s
from edge_agent.store import packing
from edge_agent.store.blobs import BlobStore
from edge_agent.store.layout import StateLayout

_MAX_GROUPS_BYTES: Final = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a full sync found: the plan, whose files are all here."""

    plan: Plan
    files: tuple[str, ...]
    """Digests of the plan's files."""
    next_wave_s: float | None
    """When the next wave of the deployment comes due, Unix time."""
    expires_s: dict[str, float]
    """When each role that was used expires, Unix time."""
    times: Times
    """What is known of the time now."""
    warnings: tuple[str, ...]
    is_settled: bool
    """Whether the outcome stands as long as the store's timestamp does."""
    downloaded_bytes: int


@dataclass(frozen=True, slots=True)
class _Found:
    plan: Plan
    files: dict[str, File]
    """By the digest that they are kept under."""
    next_wave_s: float | None


def pull(
    request: SyncRequest,
    layout: StateLayout,
    root: bytes,
    store: Store,
    meter: Meter,
    times: Times,
    deadline: Deadline,
    report: Report,
) -> Pulled:
    """Verify the store's documents before the deadline, compile this device's plan and fetch its files.

    Raises EdgeAgentError; nothing that is being served is touched.
    """
    report(SyncProgress("Checking the store's signatures"))
    with Trust(layout.trust, store, root, times, deadline) as trust:
        trust.refresh()
        found = _find(trust, request, layout)
        _check_sizes(found.files.values(), request.settings.store.max_file_bytes)
        # On disk before the long download; the folder stays locked, so that nobody else fetches beside it.
        trust.commit()
        blobs = BlobStore(layout)
        if request.force:
            _drop_damaged(found.files, blobs, Progress(report))
        downloads = Downloads(blobs, store, meter, report)
        downloaded_bytes = downloads.fetch(found.files, _old_files(found.plan, request))
        return Pulled(
            plan=found.plan,
            files=tuple(found.files),
            next_wave_s=found.next_wave_s,
            expires_s=trust.expires_s,
            times=trust.times,
            warnings=tuple(trust.warnings),
            is_settled=not trust.is_root_withheld,
            downloaded_bytes=downloaded_bytes,
        )


def _find(trust: Trust, request: SyncRequest, layout: StateLayout) -> _Found:
    device, now = _device(request), trust.times.now
    content = trust.target(GROUPS_TARGET, _MAX_GROUPS_BYTES)
    groups = Groups() if content is None else read_document(Groups, content, GROUPS_TARGET, __version__)
    group = group_of(groups, device.id, device.labels)
    deployment = _deployment(trust, group)
    if deployment is None:
        return _Found(with_id(Plan(group=group)), {}, None)
    selection = select(deployment, device.id, now)
    manifests = _manifests(trust, selection, deployment)
    plan = compile_plan(deployment, selection, manifests, device, lambda sha256: str(layout.blob(sha256)))
    return _Found(plan, files_of(plan, manifests, device.compressions), next_wave_s(deployment, now))


def _deployment(trust: Trust, group: str) -> Deployment | None:
    path = deployment_path(group)
    content = trust.target(path)
    if content is None:
        return None
    deployment = read_document(Deployment, content, path, __version__)
    if deployment.group != group:
        raise DocumentError(f"{path} is the deployment of group '{deployment.group}': deploy again.")
    trust.check_serial(group, deployment.serial)
    return deployment


def _manifests(trust: Trust, selection: Selection, deployment: Deployment) -> dict[tuple[str, str], Manifest]:
    manifests = {}
    for model, version in selection.wanted:
        path = f"models/{model}/{version}.json"
        content = trust.target(path)
        if content is None:
            raise ModelError(
                f"Deployment {deployment.serial} of group '{deployment.group}' names {model} {version}, which "
                "is not published: publish it, or deploy another version."
            )
        manifest = read_document(Manifest, content, path, __version__)
        if (manifest.name, manifest.version) != (model, version):
            raise DocumentError(
                f"{path} is the manifest of {manifest.name} {manifest.version}: publish it again."
            )
        manifests[model, version] = manifest
    return manifests


def _check_sizes(files: Iterable[File], max_bytes: int) -> None:
    """Raise ModelError for a file that is signed to be longer than this device takes, packed or unpacked."""
    for file in files:
        size_bytes = max(file.size_bytes, file.kept_size_bytes)
        if size_bytes > max_bytes:
            raise ModelError(
                f"The deployment needs a file of {size_bytes} bytes ({file.sha256}), this device takes "
                f"{max_bytes}: deploy a smaller variant, or raise store.max_file_bytes."
            )


def _device(request: SyncRequest) -> Device:
    settings = request.settings
    return Device(
        id=settings.device.id,
        architecture=platform.machine(),
        runtimes=installed(settings.engines),
        labels=settings.device.labels,
        execution_providers=settings.engines.onnx_providers,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        quarantined=request.quarantined,
        compressions=packing.readable(),
    )


def _old_files(plan: Plan, request: SyncRequest) -> dict[str, tuple[str, ...]]:
    """Return, by the digest of each model file, those of the same model that are here."""
    return {version.sha256: request.have.get(version.model, ()) for version in plan.versions}


def _drop_damaged(files: Iterable[str], blobs: BlobStore, progress: Progress) -> None:
    """Remove the files that are not what was signed any more, to be fetched again."""
    still_at_it = partial(progress.work_on, "Checking the files")
    for sha256 in files:
        if blobs.has(sha256) and not blobs.verify(sha256, still_at_it):
            blobs.remove(sha256)
