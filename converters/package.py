"""The packaged version: a folder with `manifest.json` and its blobs, which `edge-fleet publish` takes.

It is written beside its place and renamed whole, so that nobody sees half of one.
"""

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from converters.compress import plain, unpack
from edge_agent.documents.errors import DocumentError, EdgeAgentError, RequestError, StorageError
from edge_agent.documents.manifest import File, Manifest, blob_path

MANIFEST: Final = "manifest.json"

_MEASURED: Final = "latency_ms"
_FREE_SPACE: Final = "free some space on that disk"
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)


def write_package(
    out: Path, manifest: Manifest, blobs: Mapping[str, Path], pages: Mapping[str, bytes]
) -> tuple[Path, bool]:
    """Write `<out>/<name>/<version>/` and return it, and whether it is new.

    `blobs` are files by digest, `pages` what lies beside the manifest for people, by file name.

    A folder that is there already with the same content, but for time and latency, is left as it is; with other
    content it is refused with RequestError. Raises StorageError when the disk is full or not writable.
    """
    folder = out / manifest.name / manifest.version
    with mapping_os_errors(folder):
        if folder.exists():
            return _existing(folder, manifest), False
        with _staging(folder) as staging:
            for sha256, path in blobs.items():
                target = staging / blob_path(sha256)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
            for name, content in pages.items():
                (staging / name).write_bytes(content)
            (staging / MANIFEST).write_bytes(serialised(manifest))
            staging.chmod(0o755)
            staging.rename(folder)
    return folder, True


def serialised(manifest: Manifest) -> bytes:
    """Return the manifest's bytes: JSON by alias, two spaces, one line feed at the end."""
    content = manifest.model_dump(mode="json", by_alias=True)
    return (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read_manifest(folder: Path) -> Manifest:
    """Read a package's manifest; raises DocumentError when it is missing or malformed."""
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (OSError, ValueError) as error:
        said = str(error).splitlines()[0]
        raise DocumentError(
            f"{folder / MANIFEST} is not a manifest ({said}); build the package again."
        ) from error


def plain_blob(folder: Path, file: File, target: Path) -> Path:
    """Return a file with the plain form of a package's blob, unpacked to `target` if it is compressed.

    Raises DocumentError when it is missing or damaged, ArtifactError for a compressed blob that does not unpack
    to what the manifest describes.
    """
    blob = folder / blob_path(file.sha256)
    try:
        sha256 = plain(blob).sha256
    except OSError as error:
        raise DocumentError(f"The package {folder} lacks its blob {blob.name}; build it again.") from error
    if sha256 != file.sha256:
        raise DocumentError(f"{blob} is damaged: its digest is not that of the manifest; build it again.")
    with mapping_os_errors(target):
        return unpack(blob, file, target)


@contextmanager
def mapping_os_errors(path: Path) -> Iterator[None]:
    """Turn an OSError on the way to `path` into a StorageError that says what to do.

    So is an error of a library that has the full disk for its cause.
    """
    try:
        yield
    except OSError as error:
        remedy = _FREE_SPACE if error.errno in _NO_SPACE else "check the folder and its permissions"
        raise StorageError(f"Cannot write {path}: {error.strerror or error}; {remedy}.") from error
    except EdgeAgentError as error:
        if isinstance(error, StorageError) or not _is_full(error):
            raise
        raise StorageError(f"Cannot write {path}: {os.strerror(errno.ENOSPC)}; {_FREE_SPACE}.") from error


@contextmanager
def mapping_full_disk(path: Path) -> Iterator[None]:
    """Turn an error that a full disk caused into a StorageError; everything else passes."""
    try:
        yield
    except (OSError, EdgeAgentError) as error:
        if isinstance(error, StorageError) or not _is_full(error):
            raise
        raise StorageError(f"Cannot write {path}: {os.strerror(errno.ENOSPC)}; {_FREE_SPACE}.") from error


def _is_full(error: BaseException | None) -> bool:
    """Say whether an error, or one that it was raised from, tells that a disk is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NO_SPACE:
            return True
        # Native code has only words for it.
        if os.strerror(errno.ENOSPC) in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """Make a folder beside `folder`; on failure remove it and the parents that were made for it."""
    made = [parent for parent in (folder.parent, *folder.parent.parents) if not parent.exists()]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            yield staging
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
    except BaseException:
        for parent in made:
            _remove_if_empty(parent)
        raise


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        # Somebody else put something there, or it was never made.
        return


def _existing(folder: Path, manifest: Manifest) -> Path:
    if _comparable(read_manifest(folder)) != _comparable(manifest):
        raise RequestError(
            f"{folder} holds another package of this name and version; give another --version, or remove it."
        )
    return folder


def _comparable(manifest: Manifest) -> dict[str, Any]:
    """Return what two builds of the same thing have in common: all but time, latency and what follows."""
    content = manifest.model_dump(mode="json", by_alias=True, exclude={"timestamp"})
    content.pop("limits")
    for variant in content["variants"]:
        variant["metrics"].pop(_MEASURED, None)
    content["variants"].sort(key=lambda variant: str(variant["file"]["sha256"]))
    return content
