"""Zstandard: what a store serves compressed becomes the file that was signed.

The one module on the device that touches the library, which is Python's own from 3.14 on and the same code as
`backports.zstd` before; only the short-lived sync child and the host's tools import it.
"""

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import IO, Any, Final

from edge_agent.documents.errors import ArtifactError, OperatorError
from edge_agent.documents.manifest import File

MAX_WINDOW_LOG: Final = 23
"""8 MiB: what a device needs beside the pieces, and the largest window of level 19."""

_PIECE_BYTES: Final = 2**18
_LEAST_PREFIX_BYTES: Final = 8
"""The library takes no shorter one."""


def library() -> ModuleType:
    """Return the Zstandard module; raises OperatorError when it is missing."""
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError as error:
        raise OperatorError(
            "Zstandard is missing in this Python; install it with: pip install backports.zstd, or use Python "
            "3.14, which has it."
        ) from error
    module: ModuleType = zstd
    return module


def readable() -> frozenset[str]:
    """Return the compressions that this host can read."""
    try:
        library()
    except OperatorError:
        return frozenset({"none"})
    return frozenset({"none", "zstd"})


def unpacked(packed: IO[bytes], file: File) -> Iterator[bytes]:
    """Yield the content of a compressed file in pieces, `content_size_bytes` in all.

    Never more is unpacked than was signed, and never more than 8 MiB of window is held. Raises ArtifactError
    when the content is longer or shorter, when the frame is damaged or something follows it.
    """
    zstd = library()
    stream = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: MAX_WINDOW_LOG})
    left_bytes = file.kept_size_bytes
    try:
        while not stream.eof:
            # One byte more than may come tells a frame that goes on from one that ends here.
            piece = _piece(stream, packed, min(_PIECE_BYTES, left_bytes + 1), file)
            left_bytes -= len(piece)
            if left_bytes < 0:
                raise _refused(file, f"unpacks to more than the {file.kept_size_bytes} bytes that were signed")
            yield piece
    except zstd.ZstdError as error:
        raise _refused(file, f"is damaged ({error})") from error
    if left_bytes:
        raise _refused(file, f"unpacks to {left_bytes} bytes less than were signed")
    if stream.unused_data or packed.read(1):
        raise _refused(file, "goes on after the end of its frame")


def patched(patch: bytes, old: bytes, size_bytes: int) -> Iterator[bytes]:
    """Yield the file of `size_bytes` that a patch makes of an old one; raises ArtifactError if it makes none.

    What comes is still to be checked. The window reaches over both files, which are held in memory.
    """
    zstd = library()
    if len(old) < _LEAST_PREFIX_BYTES:
        raise ArtifactError("the old file is too short for one")
    options = {zstd.DecompressionParameter.window_log_max: patch_window_log(len(old), size_bytes)}
    stream = zstd.ZstdDecompressor(zstd_dict=zstd.ZstdDict(old, is_raw=True).as_prefix, options=options)
    try:
        piece = stream.decompress(patch, min(_PIECE_BYTES, size_bytes + 1))
        while piece:
            yield bytes(piece)
            size_bytes -= len(piece)
            left_bytes = 0 if stream.eof or size_bytes < 0 else size_bytes + 1
            piece = stream.decompress(b"", min(_PIECE_BYTES, left_bytes)) if left_bytes else b""
    except zstd.ZstdError as error:
        raise ArtifactError(f"it is damaged ({error})") from error
    if size_bytes or not stream.eof:
        raise ArtifactError("it makes a file of another length")


def make_patch(new: bytes, old: bytes, level: int) -> bytes:
    """Return what `patched` makes `new` of, given `old`, which has at least 8 bytes."""
    zstd = library()
    parameter = zstd.CompressionParameter
    options = {
        parameter.compression_level: level,
        parameter.window_log: patch_window_log(len(old), len(new)),
        parameter.enable_long_distance_matching: 1,
    }
    dictionary = zstd.ZstdDict(old, is_raw=True).as_prefix
    return bytes(zstd.compress(new, options=options, zstd_dict=dictionary))


def patch_window_log(old_bytes: int, new_bytes: int) -> int:
    """Return the logarithm of the window that reaches over both files."""
    return max(10, (old_bytes + new_bytes).bit_length())


def check_packed(path: Path, file: File) -> None:
    """Raise ArtifactError unless a compressed file unpacks to the content that its manifest describes."""
    digest = hashlib.sha256()
    with path.open("rb") as packed:
        for piece in unpacked(packed, file):
            digest.update(piece)
    if digest.hexdigest() != file.kept_sha256:
        raise _refused(file, f"unpacks to {digest.hexdigest()} instead of {file.kept_sha256}")


def _piece(stream: Any, packed: IO[bytes], max_bytes: int, file: File) -> bytes:
    """Return the next piece of the content, empty if the library wants more first."""
    if not stream.needs_input:
        return bytes(stream.decompress(b"", max_bytes))
    if not (more := packed.read(_PIECE_BYTES)):
        raise _refused(file, "ends in the middle of its frame")
    return bytes(stream.decompress(more, max_bytes))


def _refused(file: File, what: str) -> ArtifactError:
    return ArtifactError(f"The compressed file {file.sha256} {what}: build the version again.")
