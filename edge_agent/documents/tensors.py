"""Tensors as the Open Inference Protocol v2 names them: datatypes, and the signature of an input or output.

Source: https://github.com/kserve/open-inference-protocol, "Tensor Data Types".
"""

from dataclasses import dataclass
from typing import Final, Literal, get_args

Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "BF16", "FP32", "FP64", "BYTES",
]  # fmt: skip

DATATYPES: Final[tuple[str, ...]] = get_args(Datatype)

ITEM_SIZE_BYTES: Final[dict[str, int]] = {
    "BOOL": 1, "UINT8": 1, "UINT16": 2, "UINT32": 4, "UINT64": 8,
    "INT8": 1, "INT16": 2, "INT32": 4, "INT64": 8, "FP16": 2, "BF16": 2, "FP32": 4, "FP64": 8,
}  # fmt: skip
"""Bytes of one element in a binary tensor; BYTES has none, its elements carry their own length."""

NUMPY_NAME: Final[dict[str, str]] = {
    "BOOL": "bool", "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64",
    "INT8": "int8", "INT16": "int16", "INT32": "int32", "INT64": "int64",
    "FP16": "float16", "BF16": "uint16", "FP32": "float32", "FP64": "float64", "BYTES": "object",
}  # fmt: skip
"""The numpy dtype of each datatype, by name so that no reader of a document needs numpy.

numpy has no bfloat16: its bits are carried as whole numbers.
"""

DATATYPE_OF_NUMPY: Final[dict[str, Datatype]] = {
    NUMPY_NAME[datatype]: datatype for datatype in get_args(Datatype) if datatype != "BF16"
}
WITHOUT_JSON: Final = frozenset({"FP16", "BF16"})
"""Datatypes whose elements have no form in JSON."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output of a model: its name, OIP datatype, and shape with -1 for a free dimension."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Say whether a tensor of this shape fits: same rank, and equal where the dimension is not free."""
        if len(shape) != len(self.shape):
            return False
        # A plain loop, as this is on the way of every request.
        for want, have in zip(self.shape, shape, strict=True):  # noqa: SIM110
            if want not in (-1, have):
                return False
        return True
