"""Real files of this machine, as the Magika model sees them.

Magika looks at the first and the last 1024 bytes of a file, without white space around, as numbers 0 to 255 and
256 for padding (the package's `Magika._extract_features_from_seekable`, model standard_v3_3).
"""

import os
import sysconfig
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

HALF = 1024
PADDING = 256
BLOCK_BYTES = 4096
MOST_BYTES = 4 * 2**20
LEAST_BYTES = 64

LABELS_OF_EXTENSION = {
    ".c": {"c", "cpp"}, ".css": {"css"}, ".gz": {"gzip"}, ".h": {"c", "cpp"}, ".html": {"html"},
    ".ini": {"ini"}, ".js": {"javascript"}, ".json": {"json"}, ".md": {"markdown"}, ".pem": {"pem"},
    ".pl": {"perl"}, ".png": {"png"}, ".po": {"po"}, ".py": {"python"}, ".pyc": {"pythonbytecode"},
    ".rst": {"rst"}, ".sh": {"shell"}, ".so": {"elf"}, ".svg": {"svg"}, ".toml": {"toml"}, ".ttf": {"ttf"},
    ".xml": {"xml"}, ".yaml": {"yaml"}, ".zip": {"zip"},
}  # fmt: skip
"""The labels of Magika that agree with an extension."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A real file: its path, the labels that its extension promises, and int32 [1, 2048] for the model."""

    path: Path
    expected: frozenset[str]
    features: NDArray[np.int32]


def features(content: bytes) -> NDArray[np.int32]:
    """Return the model's input for a file's content: int32 [1, 2048]."""
    tokens = np.full(2 * HALF, PADDING, np.int32)
    begin = content[:BLOCK_BYTES].lstrip()[:HALF]
    end = content[-BLOCK_BYTES:].rstrip()[-HALF:]
    tokens[: len(begin)] = np.frombuffer(begin, np.uint8)
    tokens[2 * HALF - len(end) :] = np.frombuffer(end, np.uint8)
    return tokens[np.newaxis]


def find(most: int, most_of_a_kind: int) -> list[Sample]:
    """Collect up to `most` files with a telling extension, of each extension `most_of_a_kind` at most."""
    found: list[Sample] = []
    counts: Counter[str] = Counter()
    for path in _candidates():
        extension = path.suffix
        if (
            extension not in LABELS_OF_EXTENSION
            or path.name.startswith("__")
            or counts[extension] >= most_of_a_kind
        ):
            continue
        content = _read(path)
        if content is None:
            continue
        counts[extension] += 1
        found.append(Sample(path, frozenset(LABELS_OF_EXTENSION[extension]), features(content)))
        if len(found) == most:
            break
    return found


def _candidates() -> Iterator[Path]:
    roots = [
        sysconfig.get_path("purelib"),
        sysconfig.get_path("stdlib"),
        "/usr/share",
        "/usr/lib",
        "/usr/include",
    ]
    for root in dict.fromkeys(roots):
        for folder, names, files in os.walk(root):
            names.sort()
            yield from (Path(folder, name) for name in sorted(files))


def _read(path: Path) -> bytes | None:
    try:
        size = path.stat().st_size
        return path.read_bytes() if LEAST_BYTES <= size <= MOST_BYTES and not path.is_symlink() else None
    except OSError:
        return None
