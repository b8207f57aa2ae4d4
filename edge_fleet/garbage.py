"""Removes from a store what nobody can come to need any more.

A device may be in the middle of a refresh, or work through downloads for hours: what was current within the
grace stays, with all that it names. Roots stay for ever, since devices follow their whole chain; deployments
stay too, since their experiments' epochs must never be used twice.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from edge_agent import __version__
from edge_agent.documents.manifest import Manifest, blob_path
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
        manifests, blobs = _unneeded(files, kept, now - grace)
        # What names others goes first, so that a cut leaves nothing that names what is gone.
        for file in () if dry_run else (*metadata, *manifests, *blobs):
            files.check_lock()
            files.delete(file.name)
    freed_bytes = sum(file.size_bytes for file in (*metadata, *manifests, *blobs))
    return Collected(len(metadata), len(manifests), len(blobs), freed_bytes, dry_run)


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


def _unneeded(
    files: StoreFiles, metadata: set[str], before: datetime
) -> tuple[list[StoredFile], list[StoredFile]]:
    """Return manifests, and blobs and patches, older than that time which none of the metadata leads to."""
    names = sorted(name for name in metadata if _is_targets(name))
    needed = {target.name for target in all_roles(files, iter(names)) if target.path.startswith("models/")}
    manifests = [file for file in files.list("targets/models/") if file.name not in needed]
    blobs, digests = set(), set()
    for name in needed:
        named = manifest_files(read_document(Manifest, files.read(name), name, __version__))
        blobs |= {blob_path(file.sha256) for file in named}
        digests |= {file.kept_sha256 for file in named}
    unused = [file for file in files.list("blobs/") if file.name not in blobs]
    # A patch is of use as long as both of its files are.
    unused += [file for file in files.list("patches/") if not digests.issuperset(file.name.split("/")[-2:])]
    return [file for file in manifests if file.modified < before], [f for f in unused if f.modified < before]


def _is_targets(name: str) -> bool:
    match = _VERSIONED.fullmatch(name)
    return match is not None and match["role"] not in ("root", "snapshot", "timestamp")
