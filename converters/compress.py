"""How artifacts travel: compressed by Zstandard where that saves enough."""

import hashlib
from pathlib import Path
from typing import Any, Final

from edge_agent.documents.errors import DocumentError
from edge_agent.documents.manifest import File
from edge_agent.store import packing

LEVEL: Final = 19
"""The highest that needs no more than 8 MiB of window to unpack; higher ones saved under 1 % on models."""
LEAST_SAVING: Final = 0.10
"""Share of the length that must be saved, or the file travels as it is."""

_PIECE_BYTES: Final = 2**20


def pack(path: Path, folder: Path) -> tuple[File, Path]:
    """Return how a manifest names a file, and where the bytes lie that a store serves.

    They are the file's own, or compressed ones, written to `folder`, where that saves over 10 %.
    """
    own = plain(path)
    target = folder / f"{own.sha256}.zst"
    file = compressed(path, target)
    return (own, path) if file is None else (file, target)


def plain(path: Path) -> File:
    """Return digest and length of a file that travels as it is."""
    digest, size_bytes = _describe(path)
    return File(sha256=digest, size_bytes=size_bytes)


def compressed(path: Path, target: Path, level: int = LEVEL) -> File | None:
    """Write a file's compressed form to `target`; return None, and write nothing, where it saves too little.

    One frame that names its content's length, made by one thread without a checksum, since the manifest has
    digests of both forms: equal contents give equal bytes with one version of the library. Raises OSError.
    """
    content_sha256, content_bytes = _describe(path)
    _compress(path, target, content_bytes, level)
    packed_sha256, packed_bytes = _describe(target)
    if packed_bytes >= (1 - LEAST_SAVING) * content_bytes:
        target.unlink()
        return None
    return File(
        sha256=packed_sha256,
        size_bytes=packed_bytes,
        compression="zstd",
        content_sha256=content_sha256,
        content_size_bytes=content_bytes,
    )


def unpack(path: Path, file: File, target: Path) -> Path:
    """Return where the plain form of a package's blob lies: `path`, or what is unpacked to `target`.

    Raises ArtifactError when a compressed blob does not unpack to what its manifest describes, DocumentError
    for a compression of a later version of this program.
    """
    if file.compression == "none":
        return path
    if file.compression not in packing.readable():
        raise DocumentError(f"The compression '{file.compression}' is not known here; update this program.")
    packing.check_packed(path, file)
    with path.open("rb") as source, target.open("wb") as unpacked:
        for piece in packing.unpacked(source, file):
            unpacked.write(piece)
    return target


def _compress(path: Path, target: Path, content_bytes: int, level: int) -> None:
    zstd: Any = packing.library()
    parameter = zstd.CompressionParameter
    options = {
        parameter.compression_level: level,
        parameter.window_log: min(packing.MAX_WINDOW_LOG, max(10, content_bytes.bit_length())),
        parameter.content_size_flag: 1,
        parameter.checksum_flag: 0,
        parameter.nb_workers: 0,
    }
    compressor = zstd.ZstdCompressor(options=options)
    compressor.set_pledged_input_size(content_bytes)
    with path.open("rb") as source, target.open("wb") as packed:
        while piece := source.read(_PIECE_BYTES):
            packed.write(compressor.compress(piece))
        packed.write(compressor.flush())


def _describe(path: Path) -> tuple[str, int]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return digest, path.stat().st_size
