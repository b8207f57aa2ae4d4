"""How pixels become what an image model takes, decided from the settings and the input's signature. Pure."""

from dataclasses import dataclass
from typing import Literal

from converters.arrays import shown
from converters.errors import ConversionError
from converters.processing.settings import ImageSettings
from converters.processing.signature import Shape, check_float
from edge_agent.documents.errors import RequestError
from edge_agent.documents.tensors import TensorSpec


@dataclass(frozen=True, slots=True)
class ImagePlan:
    """From UINT8 [n, height, width, channels] to floats; the steps in the order of the fields."""

    name: str
    raw: Shape
    """What apps send."""
    shape: Shape
    """Of what the model takes, with the channels last."""
    resize: bool
    interpolation: Literal["linear", "nearest"]
    reverse: bool
    """Turn red, green, blue round."""
    multiplier: tuple[float, ...] | None
    """For each channel; None where it would change nothing."""
    subtrahend: tuple[float, ...] | None
    channels_first: bool


def plan_image(settings: ImageSettings, spec: TensorSpec) -> ImagePlan:
    """Return how pixels become what this input takes."""
    check_float(spec)
    channels = 1 if settings.channels == "gray" else 3
    mean, std = (_per_channel(getattr(settings, name), name, channels) for name in ("mean", "std"))
    channels_first = _channels_first(settings, spec, channels)
    batch, *rest = spec.shape
    height, width = rest[1:] if channels_first else rest[:-1]
    sent = _sent_size(settings, spec, height, width)
    multiplier = tuple(settings.scale / one for one in std)
    subtrahend = tuple(one / other for one, other in zip(mean, std, strict=True))
    return ImagePlan(
        name=spec.name,
        raw=(batch, *sent, channels),
        shape=(batch, height, width, channels),
        resize=-1 not in (height, width) and sent != (height, width),
        interpolation=settings.interpolation,
        reverse=settings.channels == "bgr",
        multiplier=None if set(multiplier) == {1.0} else multiplier,
        subtrahend=None if set(subtrahend) == {0.0} else subtrahend,
        channels_first=channels_first,
    )


def _per_channel(values: tuple[float, ...], name: str, channels: int) -> tuple[float, ...]:
    if len(values) not in (1, channels):
        counts = "1" if channels == 1 else f"1 or {channels}"
        raise RequestError(f"preprocess.image.{name} has {len(values)} values; give {counts}, one a channel.")
    return values if len(values) == channels else values * channels


def _channels_first(settings: ImageSettings, spec: TensorSpec, channels: int) -> bool:
    if len(spec.shape) == 4:
        places = {"nchw": spec.shape[1], "nhwc": spec.shape[3]}
        if settings.layout != "auto" and places[settings.layout] in (channels, -1):
            return settings.layout == "nchw"
        fitting = [layout for layout, size in places.items() if size == channels]
        if settings.layout == "auto" and len(fitting) == 1:
            return fitting == ["nchw"]
        if settings.layout == "auto" and fitting:
            raise RequestError(
                f"Input '{spec.name}' has the shape {shown(spec.shape)}, where the channels may be first or "
                "last; set preprocess.image.layout to 'nchw' or 'nhwc'."
            )
    place = "" if settings.layout == "auto" else f" in {settings.layout.upper()} order"
    raise ConversionError(
        f"Input '{spec.name}' has the shape {shown(spec.shape)}, which is no batch of images with {channels} "
        f"channel{'s' if channels > 1 else ''}{place}; check preprocess.image.input, channels and layout."
    )


def _sent_size(settings: ImageSettings, spec: TensorSpec, height: int, width: int) -> tuple[int, int]:
    """Return height and width of what apps send."""
    sent = (settings.height or -1, settings.width or -1)
    if -1 not in (height, width):
        return sent
    # Nothing says to what size pixels should be brought, so they go in as they are.
    for name, own, wanted in (("height", height, sent[0]), ("width", width, sent[1])):
        if own != -1 and wanted not in (-1, own):
            raise RequestError(
                f"Input '{spec.name}' has the shape {shown(spec.shape)}, to which no image can be resized; "
                f"set preprocess.image.{name} to {own} or leave it out."
            )
    return (sent[0] if height == -1 else height, sent[1] if width == -1 else width)
