"""A model's inputs and outputs, as messages name them. Pure; shapes have -1 where a dimension is free."""

from typing import Final

from converters.errors import ConversionError
from edge_agent.documents.tensors import TensorSpec

Shape = tuple[int, ...]

FLOATS: Final = ("FP32", "FP16", "FP64")


def check_float(spec: TensorSpec) -> None:
    """Raise ConversionError if this input takes no floats."""
    if spec.datatype not in FLOATS:
        raise ConversionError(
            f"Input '{spec.name}' takes {content(spec)}, and preprocessing goes in front of floats alone; "
            "leave [preprocess] out, or give the float model and have it quantized."
        )


def content(spec: TensorSpec) -> str:
    """Return what is in a tensor."""
    return "text" if spec.datatype == "BYTES" else spec.datatype
