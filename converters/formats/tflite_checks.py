"""What makes a TFLite file unfit for conversion: damage, custom operators, weights that are no numbers.

Source: https://github.com/google-ai-edge/LiteRT, `tflite/schema.fbs`.
"""

import math
from pathlib import Path
from typing import Any, Final

import numpy as np

from converters.formats.onnx_checks import check_numbers, listed, printable
from converters.formats.tflite_schema import length, operator_name, schema, tensor_name
from edge_agent.documents.errors import ModelError

IDENTIFIER: Final = b"TFL3"
IDENTIFIER_OFFSET_BYTES: Final = 4

_OFFSET_BYTES: Final = 4
_REGISTERED: Final = frozenset({"TFLite_Detection_PostProcess", "AudioSpectrogram", "Mfcc", "NumericVerify"})
"""Custom operators that both runtimes register by themselves."""

_FLOATS: Final = {"FLOAT16": np.float16, "FLOAT32": np.float32, "FLOAT64": np.float64}


def check_counts(content: bytes) -> None:
    """Raise ValueError if the file claims more tables than it has room for.

    Each table in a vector costs an offset; a file with overlapping vectors could otherwise claim billions of
    tables and keep the reader busy for ever. Small damage makes the accessors raise errors of their own.
    """
    if content[IDENTIFIER_OFFSET_BYTES : IDENTIFIER_OFFSET_BYTES + 4] != IDENTIFIER:
        raise ValueError("no TFLite identifier")
    room = len(content) // _OFFSET_BYTES
    model = schema().Model.GetRootAs(content, 0)
    room -= model.OperatorCodesLength() + model.BuffersLength() + model.MetadataLength()
    room -= model.SignatureDefsLength() + model.SubgraphsLength()
    for index in range(model.SubgraphsLength() if room >= 0 else 0):
        graph = model.Subgraphs(index)
        room -= graph.TensorsLength() + graph.OperatorsLength()
    for index in range(model.SignatureDefsLength() if room >= 0 else 0):
        definition = model.SignatureDefs(index)
        room -= definition.InputsLength() + definition.OutputsLength()
    if room < 0:
        raise ValueError("more tables than the file has room for")


def check_structure(model: Any) -> None:
    """Raise LookupError if something refers to what is not there."""
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            _check_index(tensor.buffer, model.buffers)
            schema().types[tensor.type]
        for index in (*graph.inputs, *graph.outputs):
            _check_index(index, graph.tensors)
        for operator in graph.operators:
            _check_index(operator.opcodeIndex, model.operatorCodes)
            operator_name(model, operator)
            # An operand that is left out is -1.
            for index in (*operator.inputs, *(() if operator.outputs is None else operator.outputs)):
                if index != -1:
                    _check_index(index, graph.tensors)
    _check_signatures(model)


def check_custom_operators(path: Path, model: Any) -> None:
    """Raise ModelError with the names of operators that the runtimes do not have."""
    found = sorted(
        {
            operator_name(model, operator)
            for graph in model.subgraphs
            for operator in graph.operators
            if model.operatorCodes[operator.opcodeIndex].customCode
        }
        - _REGISTERED
    )
    flex = [name for name in found if name.startswith("Flex")]
    if flex:
        raise ModelError(
            f"{path} needs TensorFlow's own operators ({listed(flex)}), which the TFLite runtimes lack; "
            "convert it again with target_spec.supported_ops = [TFLITE_BUILTINS], without SELECT_TF_OPS, and "
            "replace the layers that cannot be converted then."
        )
    if found:
        raise ModelError(
            f"{path} uses custom operators that no device has ({listed(found)}); export it with built-in "
            "TFLite operators."
        )


def check_weights(path: Path, model: Any) -> None:
    """Raise ModelError for a constant that has not the bytes of its shape, or is NaN or infinite."""
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            size = length(model.buffers[tensor.buffer])
            kind = _FLOATS.get(schema().types.get(tensor.type, ""))
            if not size or kind is None or tensor.sparsity is not None:
                continue
            name = printable(tensor_name(tensor))
            claimed = math.prod(int(one) for one in _shape(tensor)) * np.dtype(kind).itemsize
            if size != claimed:
                raise ModelError(
                    f"{path} is damaged: tensor '{name}' of shape {_shape(tensor)} should have {claimed} bytes "
                    f"and has {size}; export it again."
                )
            data = np.asarray(model.buffers[tensor.buffer].data, np.uint8)
            check_numbers(path, name, data.view(kind))


def _shape(tensor: Any) -> list[int]:
    return [] if tensor.shape is None else [int(size) for size in tensor.shape]


def _check_signatures(model: Any) -> None:
    for definition in model.signatureDefs or ():
        _check_index(definition.subgraphIndex, model.subgraphs)
        graph = model.subgraphs[definition.subgraphIndex]
        for entry in (*(definition.inputs or ()), *(definition.outputs or ())):
            _check_index(entry.tensorIndex, graph.tensors)


def _check_index(index: int, items: Any) -> None:
    if not 0 <= index < len(items):
        raise IndexError(f"there is no item {index}")
