"""How variants are quantized: the recipe's section `[quantize]`."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

Calibration = Literal["minmax", "entropy", "percentile"]
IoType = Literal["float", "int8", "uint8"]


@dataclass(frozen=True, slots=True)
class QuantizeSettings:
    """Applies to `int8` and `int16x8`; `exclude` and `per_channel` to `dynamic` too, `exclude` to `fp16`."""

    calibration: Calibration = "minmax"
    """How the range of an activation follows from what calibration showed: the extremes; the range that keeps
    most of the distribution's information; or the `percentile` of the magnitudes."""
    percentile: Annotated[float, Gt(50), Le(100)] = 99.99
    """Per cent of the magnitudes that the range holds, with `calibration = "percentile"`."""
    per_channel: bool = True
    """A scale for each output channel of a weight instead of one for all."""
    io: IoType = "float"
    """Datatype of the int8 variant's float inputs and outputs; `uint8` for ONNX only."""
    exclude: tuple[str, ...] = ()
    """Layers that stay in float: names of ONNX nodes or TFLite output tensors, or shell patterns of them. What
    follows a layer up to the next one (bias, activation, pooling) stays in float with it. ONNX nodes without a
    name are called by type and position: `Conv_0`."""
    search: bool = False
    """Find the layers that cost accuracy and keep those in float until the gate's drop is met."""
    search_limit: Annotated[int, Ge(1)] = 16
    """Layers that the search may keep in float."""
