"""The TFLite schema as ai_edge_litert ships it, imported when a model is read, and its simplest readings."""

import functools
import hashlib
from types import SimpleNamespace
from typing import Any

from converters.errors import missing


@functools.cache
def schema() -> SimpleNamespace:
    """Return the generated classes, and the names of datatypes and operators; raises ToolMissingError."""
    try:
        import flatbuffers
        from ai_edge_litert import schema_py_generated as generated
        from ai_edge_litert.tools import flatbuffer_utils
    except ImportError as error:
        raise missing("ai-edge-litert") from error

    class SharingBuilder(flatbuffers.Builder):  # type: ignore[misc]
        """Writes each numpy vector once, whatever refers to it."""

        def __init__(self, size: int) -> None:
            super().__init__(size)
            self._written: dict[tuple[str, bytes], int] = {}

        def CreateNumpyVector(self, x: Any) -> int:  # noqa: N802 (flatbuffers' name)
            key = (x.dtype.str, hashlib.sha256(x.tobytes()).digest())
            if key not in self._written:
                self._written[key] = super().CreateNumpyVector(x)
            return self._written[key]

    kinds, operators = vars(generated.TensorType), vars(generated.BuiltinOperator)
    return SimpleNamespace(
        utils=flatbuffer_utils,
        Model=generated.Model,
        BufferT=generated.BufferT,
        SignatureDefT=generated.SignatureDefT,
        TensorMapT=generated.TensorMapT,
        SharingBuilder=SharingBuilder,
        FLOAT32=generated.TensorType.FLOAT32,
        types={value: name for name, value in kinds.items() if isinstance(value, int)},
        codes={value: name for name, value in operators.items() if isinstance(value, int)},
    )


def operator_name(model: Any, operator: Any) -> str:
    """Return the name of a built-in operator, or a custom one's own."""
    code = model.operatorCodes[operator.opcodeIndex]
    if code.customCode:
        return bytes(code.customCode).decode(errors="replace")
    return str(schema().codes[max(code.builtinCode, code.deprecatedBuiltinCode)])


def tensor_name(tensor: Any) -> str:
    """Return a tensor's name, empty if it has none."""
    return bytes(tensor.name or b"").decode(errors="replace")


def length(buffer: Any) -> int:
    """Return how many bytes a buffer stores; those of activations store none."""
    return 0 if buffer.data is None else len(buffer.data)


def datatype(tensor: Any) -> str:
    """Return a tensor's datatype by the schema's name, `FLOAT32`."""
    return str(schema().types[tensor.type])
