"""Adds operators to a TFLite model without getting into the way of its own names.

Source: https://github.com/google-ai-edge/LiteRT, `tflite/schema.fbs`; the versions of operators are in
`tflite/tools/versioning/op_version.cc`.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from converters.errors import missing
from converters.processing.signature import Shape

OWN: Final = "model/"
"""Begins what the model's own tensors are called that had to give up their names."""

_HALF_PIXEL_VERSION: Final = 3
_VERSIONS: Final = {
    "RESIZE_BILINEAR": _HALF_PIXEL_VERSION,
    "RESIZE_NEAREST_NEIGHBOR": _HALF_PIXEL_VERSION,
}
"""Version 1 of everything else takes floats of up to four dimensions, and is in every runtime."""


class TfliteGraph:
    """The first subgraph under change; what is added is kept apart until `finish` puts it in its place."""

    def __init__(self, model: Any) -> None:
        self.schema = schema()
        self._model = model
        self._graph = model.subgraphs[0]
        self._taken = {bytes(tensor.name).decode() for tensor in self._graph.tensors if tensor.name}
        self._operators: list[Any] = []
        self._front: list[Any] = []

    @property
    def inputs(self) -> list[int]:
        """Numbers of the input tensors."""
        return [int(index) for index in self._graph.inputs]

    @property
    def outputs(self) -> list[int]:
        """Numbers of the output tensors."""
        return [int(index) for index in self._graph.outputs]

    def name(self, index: int) -> str:
        """Return what a tensor is called."""
        return bytes(self._graph.tensors[index].name or b"").decode()

    def type(self, index: int) -> int:
        """Return the schema's number of a tensor's datatype."""
        return int(self._graph.tensors[index].type)

    def shape(self, index: int) -> Shape:
        """Return a tensor's shape with -1 where it is free."""
        tensor = self._graph.tensors[index]
        signature = tensor.shapeSignature
        shape = tensor.shape if signature is None or len(signature) == 0 else signature
        return () if shape is None else tuple(int(size) for size in shape)

    def operator(
        self,
        name: str,
        inputs: Sequence[int],
        place: str,
        shape: Shape,
        *,
        kind: str = "FLOAT32",
        options: Any = None,
        output: int | None = None,
    ) -> int:
        """Add an operator and return its output: a new tensor of this name, shape and datatype, or `output`."""
        result = self.tensor(place, shape, kind) if output is None else output
        operator = self.schema.OperatorT()
        operator.opcodeIndex = self._code(name)
        operator.inputs, operator.outputs = list(inputs), [result]
        if options is not None:
            union = type(options).__name__.removesuffix("T")
            operator.builtinOptionsType = getattr(self.schema.BuiltinOptions, union)
            operator.builtinOptions = options
        self._operators.append(operator)
        return result

    def tensor(self, name: str, shape: Shape, kind: str) -> int:
        """Add a tensor; its free dimensions are 1 until an app sends others."""
        tensor = self.schema.TensorT()
        tensor.name, tensor.buffer = self._unique(name).encode(), 0
        self._graph.tensors.append(tensor)
        index = len(self._graph.tensors) - 1
        self.redefine(index, shape, kind)
        return index

    def redefine(self, index: int, shape: Shape, kind: str, default: Shape | None = None) -> None:
        """Give a tensor another shape and datatype; `default` is what free dimensions have at first."""
        tensor = self._graph.tensors[index]
        first = shape if default is None else default
        tensor.shape = [own if own != -1 else max(1, other) for own, other in zip(shape, first, strict=True)]
        tensor.shapeSignature = list(shape) if -1 in shape else None
        tensor.type, tensor.quantization = getattr(self.schema.TensorType, kind), None

    def constant(self, name: str, array: NDArray[Any]) -> int:
        """Add a constant tensor of float32 or int32."""
        buffer = self.schema.BufferT()
        buffer.data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        self._model.buffers.append(buffer)
        index = self.tensor(name, array.shape, array.dtype.name.upper())
        self._graph.tensors[index].buffer = len(self._model.buffers) - 1
        return index

    def integers(self, name: str, *values: int) -> int:
        """Add an INT32 constant [values]."""
        return self.constant(name, np.array(values, np.int32))

    def make_free(self, name: str) -> None:
        """Take a name away from an inner tensor of the model, if one has it."""
        for tensor in self._graph.tensors:
            if tensor.name == name.encode():
                tensor.name = self._unique(OWN + name).encode()
        self._taken.discard(name)

    def put_in_front(self, old: int, new: int) -> None:
        """Let the model's own operators read another tensor; what was added goes in front of them."""
        for operator in self._graph.operators:
            operator.inputs = _replaced(operator.inputs, old, new)
        self._front += self._operators
        self._operators = []

    def set_aside(self, output: int) -> int:
        """Put a new tensor in the place of an output and return it; the output is then to be filled."""
        tensor = self._graph.tensors[output]
        kind = next(name for name, value in vars(self.schema.TensorType).items() if value == tensor.type)
        inner = self.tensor(OWN + self.name(output), self.shape(output), kind)
        for operator in self._graph.operators:
            operator.inputs = _replaced(operator.inputs, output, inner)
            operator.outputs = _replaced(operator.outputs, output, inner)
        return inner

    def add_output(self, index: int) -> None:
        """Make a tensor an output of the graph and of its signatures."""
        self._graph.outputs = [*self.outputs, index]
        for definition in self._model.signatureDefs or ():
            if definition.subgraphIndex == 0:
                entry = self.schema.TensorMapT()
                entry.name, entry.tensorIndex = self._graph.tensors[index].name, index
                definition.outputs = [*definition.outputs, entry]

    def finish(self) -> None:
        """Put the added operators into the graph."""
        self._graph.operators = [*self._front, *self._graph.operators, *self._operators]

    def _code(self, name: str) -> int:
        number, version = getattr(self.schema.BuiltinOperator, name), _VERSIONS.get(name, 1)
        for index, code in enumerate(self._model.operatorCodes):
            if max(code.builtinCode, code.deprecatedBuiltinCode) == number and code.version == version:
                return index
        code = self.schema.OperatorCodeT()
        # Older runtimes read the deprecated field, which holds all of these.
        code.deprecatedBuiltinCode = code.builtinCode = number
        code.version = version
        self._model.operatorCodes.append(code)
        return len(self._model.operatorCodes) - 1

    def _unique(self, name: str) -> str:
        candidate, number = name, 2
        while candidate in self._taken:
            candidate, number = f"{name}_{number}", number + 1
        self._taken.add(candidate)
        return candidate


def schema() -> ModuleType:
    """Return the module of the schema's classes; raises ToolMissingError."""
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise missing("ai-edge-litert") from error
    module: ModuleType = schema_py_generated
    return module


def _replaced(indexes: Any, old: int, new: int) -> list[int]:
    return [new if int(index) == old else int(index) for index in (() if indexes is None else indexes)]
