"""Folders of files: one subfolder a class, or all files in one place."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from converters.data.splitting import stratified
from converters.errors import DataError

FileKind = Literal["images", "audio"]

SUFFIXES: Final[dict[str, FileKind]] = {
    **dict.fromkeys(
        (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"), "images"
    ),
    ".wav": "audio",
}
_WHAT: Final = "images (.png, .jpg, .bmp, .webp) or .wav files"


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file that holds one sample."""

    path: Path
    name: str
    """Relative to the folder that was given, with forward slashes."""
    sha256: str


@dataclass(frozen=True, slots=True)
class Folder:
    """Files of one kind, shuffled with a fixed seed; every beginning holds the classes in their shares."""

    kind: FileKind
    files: tuple[DataFile, ...]
    classes: NDArray[np.int64] | None
    """Number of each file's class, in the sorted order of the names; None without subfolders."""
    class_names: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """The digest of the files' names and bytes."""
        digest = hashlib.sha256()
        for file in sorted(self.files, key=lambda file: file.name):
            digest.update(f"{file.name}\0{file.sha256}\0".encode())
        return digest.hexdigest()


def read_folder(folder: Path, limit: int | None) -> Folder:
    """List a folder and read as many of its files as asked for; hidden files and other kinds are passed over.

    Folders inside of a class's folder belong to that class. Raises DataError for a folder without samples, with
    several kinds, with files both beside and inside of subfolders, or with an empty class, and for a file that
    cannot be read.
    """
    entries = _entries(folder)
    class_folders = [entry for entry in entries if entry.is_dir()]
    loose = [entry for entry in entries if _is_sample(entry)]
    if loose and class_folders:
        raise DataError(
            f"{folder} holds both files ({loose[0].name}) and folders ({class_folders[0].name}); give one "
            "folder a class, or all files in one folder."
        )
    paths, classes = loose, None
    if class_folders:
        found = [_samples(place) for place in class_folders]
        _check_no_empty(folder, class_folders, found)
        paths = [path for files in found for path in files]
        classes = np.repeat(np.arange(len(found)), [len(files) for files in found]).astype(np.int64)
    kind = _kind(folder, paths)
    chosen = stratified(classes, len(paths))[:limit]
    files = tuple(_file(folder, paths[index]) for index in chosen)
    names = tuple(place.name for place in class_folders)
    return Folder(kind, files, None if classes is None else classes[chosen], names)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith((".", "__")))
    except OSError as error:
        raise DataError(f"Cannot read {folder}: {error.strerror}; check its permissions.") from error


def _samples(folder: Path) -> list[Path]:
    return sorted(_walk(folder, frozenset()))


def _walk(folder: Path, above: frozenset[Path]) -> Iterator[Path]:
    """Find the samples below a folder; a link back to a folder above it leads nowhere new."""
    real = folder.resolve()
    if real in above:
        return
    for entry in _entries(folder):
        if entry.is_dir():
            yield from _walk(entry, above | {real})
        elif _is_sample(entry):
            yield entry


def _is_sample(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.is_dir()


def _check_no_empty(folder: Path, places: list[Path], found: list[list[Path]]) -> None:
    if not any(found):
        raise DataError(f"{folder} holds no {_WHAT}; give a folder that does, or an .npz file.")
    for place, files in zip(places, found, strict=True):
        if not files:
            raise DataError(
                f"The class '{place.name}' is empty: {place} holds no samples; add some or remove the folder."
            )


def _kind(folder: Path, paths: Iterable[Path]) -> FileKind:
    kinds = {SUFFIXES[path.suffix.lower()] for path in paths}
    if not kinds:
        raise DataError(f"{folder} holds no {_WHAT}; give a folder that does, or an .npz file.")
    if len(kinds) > 1:
        raise DataError(f"{folder} holds both images and .wav files; give a folder of one kind.")
    return kinds.pop()


def _file(folder: Path, path: Path) -> DataFile:
    try:
        if not path.is_file():
            # A broken link raises here; a pipe or device would wait for ever when it is read.
            path.stat()
            raise DataError(f"{path} is not a regular file; remove it.")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}; repair or remove it.") from error
    return DataFile(path, path.relative_to(folder).as_posix(), digest)
