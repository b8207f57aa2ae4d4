"""Tells what a file is from how it begins, whatever its name says. Pure."""

from typing import Final, Literal

FileKind = Literal["npy", "npz", "wav", "image", "other"]
"""`other` is JSON, text, or something that no model is asked with."""

HEAD_BYTES: Final = 16
"""As much of a file tells its kind."""

_NPY: Final = b"\x93NUMPY"
_NPZ: Final = b"PK\x03\x04"
_IMAGES: Final = (
    b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\x00", b"MM\x00*",
    b"\x00\x00\x00\x0cjP  ",
)  # fmt: skip
"""PNG, JPEG, GIF, TIFF and JPEG 2000."""
_NETPBM: Final = tuple(b"P%d" % number for number in range(1, 7))
_HEIF_BRANDS: Final = (b"heic", b"heix", b"mif1", b"avif")


def kind_of(head: bytes) -> FileKind:
    """Return the kind of a file whose first 16 bytes, or all if it has fewer, are `head`."""
    if head.startswith(_NPY):
        return "npy"
    if head.startswith(_NPZ):
        return "npz"
    if head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:12] == b"WAVE":
        return "wav"
    return "image" if _is_image(head) else "other"


def _is_image(head: bytes) -> bool:
    if head.startswith(_IMAGES) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return True
    if head[:2] == b"BM" and head[6:10] == bytes(4):
        # Two letters are little to go by; the four reserved bytes after the size are zero.
        return True
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
        return True
    return head[:2] in _NETPBM and head[2:3] in (b"\n", b" ", b"\t", b"\r")
