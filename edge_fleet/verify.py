"""Checks a whole store offline: metadata, targets, documents, and every byte of every blob."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from edge_agent import __version__
from edge_agent.documents.deployment import GROUPS_TARGET, Deployment, Groups
from edge_agent.documents.errors import EdgeAgentError, StorageError
from edge_agent.documents.manifest import File, Manifest, blob_path
from edge_agent.documents.reading import read_document
from edge_agent.policy.expiry import warnings
from edge_agent.policy.trusted_time import Times
from edge_fleet.deploy import named_manifests
from edge_fleet.publish import manifest_files
from edge_fleet.repository import Repository
from edge_fleet.stores.base import OnBytes, StoreFiles
from edge_fleet.trust.contents import ROOT_FILE
from edge_fleet.trust.roots import read_root
from edge_fleet.trust.verify import ListedTarget, MetadataCheck

_PIECE_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Verified:
    """What was checked, and what is wrong."""

    store: str
    metadata: int
    targets: int
    blobs: int
    size_bytes: int
    """Of targets and blobs."""
    findings: tuple[str, ...]
    """What is wrong, a sentence each."""
    warnings: tuple[str, ...]
    """What expires soon."""

    @property
    def exit_code(self) -> int:
        """The command line's: 1 if something is wrong."""
        return 1 if self.findings else 0


ShowProgress = Callable[[int], OnBytes]
"""Is told how many bytes there are to read, and returns what to tell of each piece."""


def verify(
    repository: Repository,
    now: datetime,
    trusted_root: Path | None = None,
    show: ShowProgress = lambda _: lambda _: None,
) -> Verified:
    """Read everything that a device could come to need; raises NotFoundError if there is no store.

    `trusted_root` is a file with a root that is known to be good; without it the store's own first root is
    believed. Raises RequestError or StorageError if the file holds none.
    """
    repository.check_exists()
    check = MetadataCheck(repository.files, now)
    check.run(None if trusted_root is None else read_root(trusted_root))
    findings = [*check.findings, *check.lagging.values(), *_check_copy(repository.files, check.root_bytes)]
    files = _manifests(repository.files, check.targets, findings)
    total = sum(file.size_bytes for file in files.values())
    on_bytes = show(total)
    for sha256, file in files.items():
        findings += _check_blob(repository.files, sha256, file, on_bytes)
    soon: tuple[str, ...] = ()
    if not findings:
        expires = repository.read().expires
        soon = warnings({role: time.timestamp() for role, time in expires.items()}, Times(now))
    return Verified(
        store=str(repository.files),
        metadata=check.checked,
        targets=len(check.targets),
        blobs=len(files),
        size_bytes=total + sum(target.size_bytes for target in check.targets),
        findings=tuple(findings),
        warnings=soon,
    )


def _check_copy(files: StoreFiles, newest_root: bytes) -> list[str]:
    """Check the root that devices are set up with."""
    try:
        if files.read(ROOT_FILE) == newest_root:
            return []
    except StorageError as error:
        return [str(error)]
    return [f"{ROOT_FILE} is not a copy of the newest root: run edge-fleet refresh."]


def _manifests(files: StoreFiles, targets: list[ListedTarget], findings: list[str]) -> Mapping[str, File]:
    """Check every target; return the blobs that the manifests among them name, by digest."""
    blobs: dict[str, File] = {}
    published = {target.path for target in targets}
    for target in targets:
        try:
            content = _read_target(files, target)
            for file in blobs_of(content, target.path, published):
                blobs[file.sha256] = file
        except EdgeAgentError as error:
            findings.append(str(error))
    return blobs


def _read_target(files: StoreFiles, target: ListedTarget) -> bytes:
    content = files.read(target.name)
    if len(content) != target.size_bytes or hashlib.sha256(content).hexdigest() != target.sha256:
        raise StorageError(f"{files}/{target.name} is not the file that {target.role} signed.")
    return content


def blobs_of(content: bytes, path: str, published: set[str]) -> list[File]:
    """Read a target by its kind and return the blobs it names; raises DocumentError or StorageError."""
    if path == GROUPS_TARGET:
        read_document(Groups, content, path, __version__)
        return []
    if path.startswith("deployments/"):
        deployment = read_document(Deployment, content, path, __version__)
        if lacking := sorted(named_manifests(deployment) - published):
            raise StorageError(f"{path} names {lacking[0]}, which nobody has signed: deploy another version.")
        return []
    manifest = read_document(Manifest, content, path, __version__)
    if manifest.target_path != path:
        raise StorageError(f"{path} is the manifest of {manifest.target_path}: publish that version again.")
    return manifest_files(manifest)


def _check_blob(files: StoreFiles, sha256: str, file: File, on_bytes: OnBytes) -> list[str]:
    name, digest, size_bytes = blob_path(sha256), hashlib.sha256(), 0
    try:
        with files.open(name) as stream:
            while piece := stream.read(_PIECE_BYTES):
                digest.update(piece)
                size_bytes += len(piece)
                on_bytes(len(piece))
    except StorageError as error:
        return [str(error)]
    if size_bytes != file.size_bytes:
        return [
            f"{files}/{name} has {size_bytes} bytes instead of {file.size_bytes}: publish its version again."
        ]
    if digest.hexdigest() != sha256:
        return [f"{files}/{name} does not have the digest that is its name: publish its version again."]
    return []
