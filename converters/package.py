"""The packaged version: a folder with `manifest.json` and its blobs, which `edge-fleet publish` takes.

It is written beside its place and renamed whole, so that nobody sees half of one.
"""

import errno
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from converters.errors import missing
from edge_agent.documents.errors import DocumentError, RequestError, StorageError
from edge_agent.documents.manifest import File, Manifest, blob_path

MANIFEST: Final = "manifest.json"

_MEASURED: Final = "latency_ms"
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)


def describe(path: Path) -> File:
    """Return digest and length of a file, as a manifest names it."""
    content = path.read_bytes()
    return File(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))


def write_package(out: Path, manifest: Manifest, blobs: Mapping[str, Path]) -> tuple[Path, bool]:
    """Write `<out>/<name>/<version>/` and return it, and whether it is new.

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


def extract(folder: Path, file: File, target: Path) -> Path:
    """Return a package's blob as runtimes take it: itself, or decompressed to `target`.

    Raises DocumentError when it is missing or its content is not what the manifest says.
    """
    path = folder / blob_path(file.sha256)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DocumentError(f"The package {folder} lacks its blob {path.name}; build it again.") from error
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise DocumentError(f"{path} is damaged: its digest is not that of the manifest; build it again.")
    if file.compression == "none":
        return path
    with mapping_os_errors(target):
        target.write_bytes(_decompressed(content, file.compression))
    return target


def _decompressed(content: bytes, compression: str) -> bytes:
    if compression != "zstd":
        raise DocumentError(f"The package's compression '{compression}' is not known; update this program.")
    try:
        import zstandard
    except ImportError as error:
        raise missing("zstandard") from error
    try:
        with zstandard.ZstdDecompressor().stream_reader(content) as reader:
            return bytes(reader.read())
    except zstandard.ZstdError as error:
        raise DocumentError(f"A blob of the package is not {compression} ({error}); build it again.") from error


@contextmanager
def mapping_os_errors(path: Path) -> Iterator[None]:
    """Turn an OSError on the way to `path` into a StorageError that says what to do."""
    try:
        yield
    except OSError as error:
        full = error.errno in _NO_SPACE
        remedy = "free some space on that disk" if full else "check the folder and its permissions"
        raise StorageError(f"Cannot write {path}: {error.strerror or error}; {remedy}.") from error


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
    """Return what two builds of the same thing have in common: all but time, latency and the order by it."""
    content = manifest.model_dump(mode="json", by_alias=True, exclude={"timestamp"})
    for variant in content["variants"]:
        variant["metrics"].pop(_MEASURED, None)
    content["variants"].sort(key=lambda variant: str(variant["file"]["sha256"]))
    return content
