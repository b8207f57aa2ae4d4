"""Images as a model takes them. The one module here that uses Pillow.

They are resized by Pillow's bilinear filter, which averages where an image shrinks, as torchvision's Resize
does. The orientation that a camera notes in a JPEG is left alone, as Keras and torchvision leave it.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from converters.arrays import shown
from converters.data.casting import check_numeric, scaled
from converters.data.settings import DataSettings
from converters.errors import DataError, missing
from edge_agent.documents.tensors import TensorSpec

USUAL_SCALE: Final = 1 / 255
_GRAY, _COLOR = 1, 3
_EIGHT_BIT: Final = (
    "1",
    "L",
    "LA",
    "La",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBa",
    "RGBX",
    "CMYK",
    "YCbCr",
    "HSV",
    "LAB",
)
_GRAY_MODES: Final = ("1", "L", "LA", "La")

Pixels = NDArray[np.uint8]
"""One image, [height, width, 1 or 3]."""

Size = tuple[int, int]
"""Height and width."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How an input holds one image."""

    channels: int
    height: int
    """-1 where it is free, as the width."""
    width: int
    first: bool = False
    """The channels come before height and width."""
    without: bool = False
    """Gray, without an axis for the channel."""
    batch: bool = True
    """There is an axis for several images, which gets one."""

    def placed(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Bring [height, width, channels] into the input's order of axes."""
        ordered = pixels[..., 0] if self.without else pixels.transpose(2, 0, 1) if self.first else pixels
        return np.ascontiguousarray(ordered[None] if self.batch else ordered)


def fit(paths: Sequence[Path], spec: TensorSpec, settings: DataSettings) -> Iterator[NDArray[Any]]:
    """Read each image as one run's tensor for an input; raises DataError for what does not fit."""
    check_numeric(spec)
    layout = layout_of(spec, settings)
    size = _size(paths, spec, layout, settings)
    for path in paths:
        pixels = read_image(path, channels=layout.channels, size=size)
        yield layout.placed(scaled(spec, pixels, settings.scale, USUAL_SCALE))


def stacked(paths: Sequence[Path], settings: DataSettings, size: Size, channels: int) -> NDArray[np.float32]:
    """Read images as floats [n, height, width, channels], multiplied by the scale."""
    factor = np.float32(USUAL_SCALE if settings.scale is None else settings.scale)
    pixels = np.stack([read_image(path, channels=channels, size=size) for path in paths])
    return pixels.astype(np.float32) * factor


def layout_of(spec: TensorSpec, settings: DataSettings) -> Layout:
    """Tell how an input holds an image by where 1 or 3 channels are; raises DataError if it holds none."""
    shape = spec.shape
    found: Layout | None = None
    if len(shape) == 4 and shape[0] in (-1, 1):
        found = _with_channels(shape[1:], batch=True)
    elif len(shape) == 3:
        found = _with_channels(shape, batch=False) if shape[0] not in (-1, 1) else None
        if found is None and shape[0] in (-1, 1):
            found = Layout(_GRAY, shape[1], shape[2], without=True)
    if found is None:
        raise DataError(
            f"Input '{spec.name}' has shape {shown(shape)}, which holds no image with 1 or 3 channels; give an "
            ".npz file with arrays as it takes them."
        )
    wanted = {"gray": _GRAY, "rgb": _COLOR}.get(settings.color, found.channels)
    if wanted != found.channels:
        raise DataError(
            f"Input '{spec.name}' takes {found.channels} channel{'s' * (found.channels > 1)}, which images in "
            f"{settings.color} do not have; leave color at 'auto'."
        )
    return found


def common_size(paths: Sequence[Path], settings: DataSettings) -> Size:
    """Return the height and width of the settings, or else those that all images have.

    Raises DataError when images differ and the settings do not say both.
    """
    if settings.height is not None and settings.width is not None:
        return settings.height, settings.width
    sizes = {path: _described(path)[0] for path in paths}
    first = sizes[paths[0]]
    for path, size in sizes.items():
        if size != first:
            raise DataError(
                f"The images differ in size ({paths[0].name} has {first[1]}x{first[0]}, {path.name} "
                f"{size[1]}x{size[0]}); say to which height and width to resize them."
            )
    return settings.height or first[0], settings.width or first[1]


def common_channels(paths: Sequence[Path], settings: DataSettings) -> int:
    """Return 1 for gray and 3 for colour: what the settings say, else 1 only where all images are gray."""
    if settings.color != "auto":
        return _GRAY if settings.color == "gray" else _COLOR
    return _GRAY if all(_described(path)[1] for path in paths) else _COLOR


def read_image(path: Path, *, channels: int, size: Size) -> Pixels:
    """Read and resize an image; raises DataError when it is damaged or has more than 8 bits a channel."""
    with _opened(path) as image:
        plain = image.convert("L" if channels == _GRAY else "RGB")
        height, width = size
        if plain.size != (width, height):
            plain = plain.resize((width, height), resample=_bilinear())
        pixels = np.asarray(plain, dtype=np.uint8)
    return pixels[..., None] if channels == _GRAY else pixels


def _with_channels(shape: tuple[int, ...], *, batch: bool) -> Layout | None:
    first, last = shape[0] in (_GRAY, _COLOR), shape[2] in (_GRAY, _COLOR)
    if first and last:
        # An image of 1 or 3 pixels a side: images are mostly square.
        last = shape[1] != shape[2]
    if last:
        return Layout(shape[2], shape[0], shape[1], batch=batch)
    return Layout(shape[0], shape[1], shape[2], first=True, batch=batch) if first else None


def _size(paths: Sequence[Path], spec: TensorSpec, layout: Layout, settings: DataSettings) -> Size:
    for what, own, wanted in (
        ("height", layout.height, settings.height),
        ("width", layout.width, settings.width),
    ):
        if own != -1 and wanted not in (None, own):
            raise DataError(
                f"Input '{spec.name}' takes a {what} of {own} pixels, the settings say {wanted}; leave it out."
            )
    if layout.height != -1 and layout.width != -1:
        return layout.height, layout.width
    height, width = common_size(paths, settings)
    return (height if layout.height == -1 else layout.height), (width if layout.width == -1 else layout.width)


def _described(path: Path) -> tuple[Size, bool]:
    """Return the size of an image, and whether it is gray, from its header."""
    with _opened(path) as image:
        return (image.height, image.width), image.mode in _GRAY_MODES


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open an image; whatever Pillow raises, while it is open too, becomes a DataError."""
    try:
        from PIL import Image
    except ImportError as error:
        raise missing("pillow") from error
    try:
        with warnings.catch_warnings():
            # Pillow warns of images that are suspiciously large, and of damaged metadata that does not matter.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                _check_depth(path, image.mode)
                yield image
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DataError(f"{path} has too many pixels; give a smaller image.") from error
    except DataError:
        raise
    except Exception as error:
        # Pillow raises OSError, SyntaxError, ValueError, struct.error and more for damaged files.
        raise DataError(f"{path} is not an image, or damaged; repair or remove it.") from error


def _check_depth(path: Path, mode: str) -> None:
    if mode not in _EIGHT_BIT:
        raise DataError(
            f"{path} has more than 8 bits a channel (mode {mode}); save it with 8, or give an .npz file."
        )


def _bilinear() -> Any:
    from PIL import Image

    return Image.Resampling.BILINEAR
