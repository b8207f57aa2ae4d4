"""What is written into the graph before and after the model: the recipe's `[preprocess]` and `[postprocess]`.

With it an app sends what its camera or microphone gives and reads what it shows.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Len


@dataclass(frozen=True, slots=True)
class ImageSettings:
    """From UINT8 pixels [n, height, width, channels] to what the model takes.

    value = (pixel * scale - mean) / std, for each channel.
    """

    input: str = ""
    """Which input; needs no name where there is one."""
    height: Annotated[int, Ge(1)] | None = None
    """In pixels, of what apps send; left out, any where the format allows a free dimension, and the model's own
    where it does not."""
    width: Annotated[int, Ge(1)] | None = None
    """The same for the width."""
    channels: Literal["rgb", "bgr", "gray"] = "rgb"
    """In which order the model takes them; apps always send red, green, blue, or one for gray."""
    layout: Literal["auto", "nchw", "nhwc"] = "auto"
    """Of the model's input; `auto` tells it by where the channels are."""
    scale: Annotated[float, Gt(0)] = 1 / 255
    """What pixels are multiplied by."""
    mean: tuple[float, ...] = (0.0,)
    """What is taken away then: one value, or one a channel in the order that the model takes them."""
    std: Annotated[tuple[Annotated[float, Gt(0)], ...], Len(1)] = (1.0,)
    """What is divided by last: one value, or one a channel."""
    interpolation: Literal["linear", "nearest"] = "linear"
    """How pixels of another size are resized: half-pixel centres, no antialiasing."""


@dataclass(frozen=True, slots=True)
class AudioSettings:
    """From INT16 samples [n, samples] to what the model takes: floats from -1 to 1, or a
    log-mel spectrogram.
    """

    input: str = ""
    """Which input; needs no name where there is one."""
    rate_hz: Annotated[int, Ge(1)] = 16000
    """Sample rate of what apps send."""
    samples: Annotated[int, Ge(1)] | None = None
    """Length of what apps send; left out, what the model's input needs."""
    features: Literal["samples", "log-mel"] = "samples"
    """What the model takes: floats from -1 to 1, or a log-mel spectrogram, which the keys below say more of."""
    frame_samples: Annotated[int, Ge(1)] = 400
    """Length of a frame, and of its periodic Hann window."""
    hop_samples: Annotated[int, Ge(1)] = 160
    """From one frame to the next."""
    mel_bins: Annotated[int, Ge(1)] = 40
    """Mel bands."""
    low_hz: Annotated[float, Ge(0)] = 20.0
    """Where the lowest band begins."""
    high_hz: Annotated[float, Gt(0)] | None = None
    """Where the highest band ends; left out, at half of the rate."""
    log_floor: Annotated[float, Gt(0)] = 1e-6
    """Added to a band's power before the logarithm."""


@dataclass(frozen=True, slots=True)
class PreprocessSettings:
    """At most one of each kind."""

    image: ImageSettings | None = None
    audio: AudioSettings | None = None


@dataclass(frozen=True, slots=True)
class PostprocessSettings:
    """Applied to the first output, in this order."""

    softmax: bool = False
    """Turn scores into probabilities."""
    argmax: bool = False
    """Add an output `class`, INT64 [n]: the number of the largest."""
    labels: bool = False
    """Add an output `label`, BYTES [n]: the name of that class, where the format has text (ONNX)."""

    @property
    def is_empty(self) -> bool:
        """Say whether nothing is to be added."""
        return not (self.softmax or self.argmax or self.labels)
