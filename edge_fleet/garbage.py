"""Removes from a store what nobody can come to need any more.

A device may be in the middle of a refresh, or work through downloads for hours: what was current within the
grace stays, with all that it names. Roots stay for ever, since devices follow their whole chain; deployments
stay too, since their experiments' epochs must never be used twice.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from edge_agent import __version__
from edge_agent.documents.manifest import File, Manifest, blob_path
from edge_agent.documents.reading import read_document
from edge_fleet.publish import manifest_files
from edge_fleet.repository import Contents, Repository
from edge_fleet.stores.base import StoredFile, StoreFiles
from edge_fleet.trust.verify import all_roles

_VERSIONED: Final = re.compile(r"metadata/(?P<version>\d+)\.(?P<role>[^/]+)\.json")
DEFAULT_GRACE_DAYS: Final = 7.0


@dataclass(frozen=True, slots=True)
class Collected:
    """What was removed."""

    metadata: int
    manifests: int
    patches: int
    blobs: int
    freed_bytes: int
    dry_run: bool


def collect_garbage(
    repository: Repository, now: datetime, grace: timedelta, dry_run: bool = False
) -> Collected:
    """Remove what was last needed longer than the grace ago; no keys are needed, as nothing is signed."""
    repository.check_exists()
    files = repository.files
    with files.locked():
        listed = list(files.list("metadata/"))
        metadata = _outdated(listed, repository.read(), now - grace)
        kept = {file.name for file in listed} - {file.name for file in metadata}
        needed, named = _needed(files, kept)
        blobs, contents = {blob_path(file.sha256) for file in named}, {file.kept_sha256 for file in named}
        # What names others goes first, so that a cut leaves nothing that names what is gone.
        unneeded = {
            "metadata": metadata,
            "manifests": _old(files, "targets/models/", now - grace, needed.__contains__),
            "patches": _old(files, "patches/", now - grace, lambda name: _patch_is_needed(name, contents)),
            "blobs": _old(files, "blobs/", now - grace, blobs.__contains__),
        }
        removed = [file for group in unneeded.values() for file in group]
        for file in () if dry_run else removed:
            files.check_lock()
            files.delete(file.name)
    counts = {kind: len(group) for kind, group in unneeded.items()}
    return Collected(**counts, freed_bytes=sum(file.size_bytes for file in removed), dry_run=dry_run)


def _old(
    files: StoreFiles, prefix: str, before: datetime, is_needed: Callable[[str], bool]
) -> list[StoredFile]:
    """Return the files under a folder that nobody needs and that are older than that time."""
    return [file for file in files.list(prefix) if file.modified < before and not is_needed(file.name)]


def _outdated(listed: Iterable[StoredFile], contents: Contents, before: datetime) -> list[StoredFile]:
    """Return the metadata that was replaced, or left behind by an interrupted edit, before that time."""
    by_role: dict[str, dict[int, StoredFile]] = defaultdict(dict)
    for file in listed:
        match = _VERSIONED.fullmatch(file.name)
        if match is not None and match["role"] != "root" and match["role"] in contents.roles:
            by_role[match["role"]][int(match["version"])] = file
    outdated = []
    for role, versions in by_role.items():
        current = contents.roles[role].signed.version
        ordered = sorted(versions)
        for version, following in zip(ordered, [*ordered[1:], None], strict=True):
            # A version was current until the next one was written.
            last = versions[version if version > current or following is None else following]
            if version != current and last.modified < before:
                outdated.append(versions[version])
    return outdated


def _needed(files: StoreFiles, metadata: set[str]) -> tuple[set[str], list[File]]:
    """Return the names of all manifests that the metadata leads to, and the files that those name."""
    names = sorted(name for name in metadata if _is_targets(name))
    manifests = {target.name for target in all_roles(files, iter(names)) if target.path.startswith("models/")}
    named = []
    for name in sorted(manifests):
        named += manifest_files(read_document(Manifest, files.read(name), name, __version__))
    return manifests, named


def _patch_is_needed(name: str, contents: set[str]) -> bool:
    """Say whether a patch leads from one to another of these contents, given by digest."""
    return contents.issuperset(name.split("/")[-2:])


def _is_targets(name: str) -> bool:
    match = _VERSIONED.fullmatch(name)
    return match is not None and match["role"] not in ("root", "snapshot", "timestamp")
