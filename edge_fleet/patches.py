"""Makes patches: what a device fetches of a new version instead of all of it, if it has an old one.

For the files of a package, from the versions that are deployed, which is what devices have. They lie beside the
blobs, unsigned: what a patch makes has a signed digest. Figures: docs/decisions/0014-patches-not-chunks.md.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from edge_agent import __version__
from edge_agent.documents.deployment import GROUPS_TARGET, Choice, Deployment
from edge_agent.documents.errors import EdgeAgentError
from edge_agent.documents.manifest import PATCH_LIMIT_BYTES, File, Manifest, blob_path, patch_path
from edge_agent.documents.reading import read_document
from edge_agent.store import packing
from edge_fleet.stores.base import StoreFiles
from edge_fleet.trust.contents import DEPLOYMENTS, Contents

LEVEL: Final = 19
MOST_VERSIONS: Final = 4
"""Deployed versions of one model that patches are made from."""
LEAST_BYTES: Final = 16 * 2**10
"""Shorter files are not worth a request."""
LEAST_SAVING: Final = 0.5
"""Share of what travels otherwise that a patch must save."""


def write_patches(files: StoreFiles, contents: Contents, manifest: Manifest, folder: Path) -> int:
    """Write the patches of a package's model files into the store; return how many there are of use.

    A deployed version that cannot be read makes none: devices fetch the whole file then.
    """
    made = 0
    for old in _deployed(contents, manifest):
        for variant in manifest.variants:
            for before in old.variants:
                if (before.engine, before.precision) == (variant.engine, variant.precision):
                    made += _write(files, folder, variant.file, before.file)
    return made


def _deployed(contents: Contents, manifest: Manifest) -> Iterator[Manifest]:
    """Yield the manifests of the other deployed versions of the same model, those of most groups first."""
    counts: dict[str, int] = {}
    for path in contents.targets(DEPLOYMENTS):
        if path == GROUPS_TARGET:
            continue
        try:
            content = contents.read_target(DEPLOYMENTS, path)
            deployment = read_document(Deployment, content or b"", path, __version__)
        except EdgeAgentError:
            continue  # `edge-fleet verify` tells of it; it must not keep a new version out
        choices: list[Choice] = [deployment.stable]
        choices += [deployment.candidate] if deployment.candidate is not None else []
        for choice in choices:
            if manifest.name in choice.models:
                for arm in choice.models[manifest.name].arms:
                    counts[arm.version] = counts.get(arm.version, 0) + 1
    counts.pop(manifest.version, None)
    for version in sorted(counts, key=lambda name: (-counts[name], name))[:MOST_VERSIONS]:
        path = f"models/{manifest.name}/{version}.json"
        try:
            content = contents.read_target(f"m-{manifest.name}", path)
            old = None if content is None else read_document(Manifest, content, path, __version__)
        except EdgeAgentError:
            continue
        if old is not None:
            yield old


def _write(files: StoreFiles, folder: Path, new: File, old: File) -> int:
    name = patch_path(new.kept_sha256, old.kept_sha256)
    shortest, longest = sorted((new.kept_size_bytes, old.kept_size_bytes))
    if new.kept_sha256 == old.kept_sha256 or shortest < LEAST_BYTES or longest > PATCH_LIMIT_BYTES:
        return 0
    if files.exists(name):
        return 1
    try:
        before = _content(files.read(blob_path(old.sha256)), old)
    except EdgeAgentError:
        return 0
    patch = packing.make_patch(_content((folder / blob_path(new.sha256)).read_bytes(), new), before, LEVEL)
    if len(patch) > (1 - LEAST_SAVING) * new.size_bytes:
        return 0
    files.write(name, patch)
    return 1


def _content(blob: bytes, file: File) -> bytes:
    if file.compression == "none":
        return blob
    return b"".join(packing.unpacked(io.BytesIO(blob), file))
