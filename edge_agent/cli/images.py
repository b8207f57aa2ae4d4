"""An image file as the pixels that a model takes. The one module of the agent that uses Pillow, if it is there.

Pixels are read as `edge-convert` reads the images of its data: the orientation that a camera notes is left
alone, and where the model takes one size only, images are brought to it by Pillow's bilinear filter. All else
(scaling, means, the order of the channels that a network wants) belongs into the model's graph.
"""

import io
import warnings
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_agent.documents.errors import OperatorError, RequestError
from edge_agent.documents.tensors import TensorSpec

_GRAY, _COLOR = 1, 3
_DEEP: Final = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
"""Pillow's modes of more than 8 bits a channel."""


@dataclass(frozen=True, slots=True)
class ImageLayout:
    """How an input of pixels holds one image; -1 where a side is free."""

    channels: int
    height: int
    width: int
    channels_first: bool
    has_batch: bool


def layout_of(spec: TensorSpec) -> ImageLayout | None:
    """Return how an input holds the pixels of an image, or None if it takes none.

    UINT8 of [n, height, width, channels], also with the channels first and without n; 1 or 3 channels.
    """
    shape = spec.shape
    has_batch = len(shape) == 4 and shape[0] in (-1, 1)
    if spec.datatype != "UINT8" or not (has_batch or len(shape) == 3):
        return None
    first, second, last = shape[-3:]
    if last in (_GRAY, _COLOR):
        return ImageLayout(last, first, second, channels_first=False, has_batch=has_batch)
    if first in (_GRAY, _COLOR):
        return ImageLayout(first, second, last, channels_first=True, has_batch=has_batch)
    return None


def decoded(content: bytes, spec: TensorSpec, name: str) -> NDArray[np.uint8]:
    """Return an image file as the tensor that an input takes; `name` is the file's, for messages.

    Raises RequestError where the input takes no pixels or the file is damaged, OperatorError without Pillow.
    """
    layout = layout_of(spec)
    if layout is None:
        raise RequestError(
            f"{name} is an image, and input '{spec.name}' takes {spec.datatype} {list(spec.shape)}, not pixels "
            "(UINT8 [n, height, width, 3]); give an .npy file as the model takes it, or let 'edge-convert "
            "build' write the steps before the model into its graph, by [preprocess.image] in the recipe."
        )
    pixels = _pixels(content, layout, name)
    ordered = pixels.transpose(2, 0, 1) if layout.channels_first else pixels
    return np.ascontiguousarray(ordered[np.newaxis] if layout.has_batch else ordered)


def _pixels(content: bytes, layout: ImageLayout, name: str) -> NDArray[np.uint8]:
    """Return [height, width, channels]; whatever Pillow raises becomes one of ours."""
    try:
        from PIL import Image
    except ImportError as error:
        raise OperatorError(
            f"{name} is an image, which takes Pillow to read; install it: pip install pillow"
        ) from error
    try:
        with warnings.catch_warnings():
            # Damaged metadata does not matter, but far too many pixels do.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as image:
                pixels = _converted(image, layout, Image.Resampling.BILINEAR, name)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise RequestError(f"{name} has too many pixels; give a smaller image.") from error
    except RequestError:
        raise
    except Exception as error:
        # Pillow raises OSError, SyntaxError, ValueError, struct.error and more for damaged files.
        raise RequestError(f"{name} is a damaged image, or of a kind that Pillow does not read.") from error
    return pixels


def _converted(image: Any, layout: ImageLayout, filter_: Any, name: str) -> NDArray[np.uint8]:
    if image.mode in _DEEP:
        raise RequestError(f"{name} has more than 8 bits a channel (mode {image.mode}); save it with 8.")
    plain = image.convert("L" if layout.channels == _GRAY else "RGB")
    width, height = plain.size
    size = (width if layout.width == -1 else layout.width, height if layout.height == -1 else layout.height)
    if plain.size != size:
        plain = plain.resize(size, resample=filter_)
    pixels = np.asarray(plain, dtype=np.uint8)
    return pixels[..., np.newaxis] if layout.channels == _GRAY else pixels
