"""The one module that reads and rewrites TFLite files: what a model is made of, and its normal form.

Source: https://github.com/google-ai-edge/LiteRT, `tflite/schema.fbs`. ai_edge_litert's schema is imported
when a model is read, never with this module.
"""

import functools
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import numpy as np

from converters.errors import missing
from edge_agent.documents.errors import ModelError
from edge_agent.documents.manifest import Precision

IDENTIFIER: Final = b"TFL3"
IDENTIFIER_OFFSET_BYTES: Final = 4

_COMPUTING: Final = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "BATCH_MATMUL")
SIGNATURE: Final = b"serving_default"


def read(path: Path) -> Any:
    """Return the schema's `ModelT` of a file; raises ModelError if it is truncated or damaged."""
    content = path.read_bytes()
    schema = _import()
    try:
        _verify(content)
        model = schema.utils.read_model_from_bytearray(bytearray(content))
        for graph in model.subgraphs:
            _check_indexes(model, graph)
    except Exception as error:
        raise ModelError(
            f"{path} is truncated or damaged: it begins as a TFLite model but cannot be read as one; give a "
            "complete file."
        ) from error
    return model


def operators(model: Any) -> Counter[str]:
    """Count the operators of all subgraphs by name; custom ones by their own."""
    return Counter(operator_name(model, operator) for graph in model.subgraphs for operator in graph.operators)


def operator_name(model: Any, operator: Any) -> str:
    """Return an operator's name; a custom one's own."""
    code = model.operatorCodes[operator.opcodeIndex]
    if code.customCode:
        return bytes(code.customCode).decode(errors="replace")
    return str(_import().codes[max(code.builtinCode, code.deprecatedBuiltinCode)])


def datatype(tensor: Any) -> str:
    """Return a tensor's datatype by the schema's name, `FLOAT32`."""
    return str(_import().types[tensor.type])


def versions(model: Any) -> dict[str, int]:
    """Return the version of the schema."""
    return {"schema": int(model.version)}


def precision(model: Any) -> Precision:
    """Name the precision by what goes into the operators that compute, else by the datatype of the weights."""
    types = _import().types
    activations: set[str] = set()
    weights: set[str] = set()
    for graph in model.subgraphs:
        for operator in graph.operators:
            if operator_name(model, operator) in _COMPUTING:
                activations.add(types[graph.tensors[operator.inputs[0]].type])
                weights.add(types[graph.tensors[operator.inputs[1]].type])
    if activations & {"INT8", "UINT8"}:
        return "int8"
    if "INT16" in activations:
        return "int16x8"
    if weights & {"INT8", "INT4", "UINT8"}:
        return "dynamic"
    stored = _stored_bytes(model)
    return "fp16" if stored["FLOAT16"] > stored["FLOAT32"] else "fp32"


def normalised(model: Any) -> bytes:
    """Return the model in the form that the quantizer understands; its answers stay the same.

    Older files differ in three ways that make the quantizer pass over them silently: operator codes in the
    deprecated field, float16 weights behind DEQUANTIZE operators, no signature.
    """
    for code in model.operatorCodes:
        code.builtinCode = max(code.builtinCode, code.deprecatedBuiltinCode)
    for graph in model.subgraphs:
        _unfold_half_weights(model, graph)
    if not model.signatureDefs:
        model.signatureDefs = [_signature(model.subgraphs[0])]
    return serialised(model)


def with_output_names(content: bytes, names: list[str]) -> bytes:
    """Return the model with these names on its outputs, in their order.

    The quantizer appends a DEQUANTIZE to each output and calls what comes out of it `<name>_dequant`.
    """
    model = _import().utils.read_model_from_bytearray(bytearray(content))
    graph = model.subgraphs[0]
    for index, name in zip(graph.outputs, names, strict=True):
        encoded = name.encode()
        for tensor in graph.tensors:
            if tensor.name == encoded:
                tensor.name = encoded + b"_quantized"
        graph.tensors[index].name = encoded
    return serialised(model)


def output_names(model: Any) -> list[str]:
    """Return the names of the first subgraph's output tensors, in their order."""
    graph = model.subgraphs[0]
    return [bytes(graph.tensors[index].name).decode() for index in graph.outputs]


def signature_inputs(model: Any) -> dict[str, str]:
    """Return, by input tensor name, what the first signature calls that input."""
    graph = model.subgraphs[0]
    return {
        bytes(graph.tensors[entry.tensorIndex].name).decode(): bytes(entry.name).decode()
        for entry in model.signatureDefs[0].inputs
    }


def signature_key(model: Any) -> str:
    """Return the key of the first signature."""
    return bytes(model.signatureDefs[0].signatureKey).decode()


def serialised(model: Any) -> bytes:
    """Return the file's bytes, with all weights inside the flatbuffer, which every runtime can read."""
    return bytes(_import().utils.convert_object_to_bytearray(model))


def _unfold_half_weights(model: Any, graph: Any) -> None:
    """Turn `float16 constant -> DEQUANTIZE` into a float32 constant; exact, since every half is a float."""
    schema = _import()
    kept = []
    unfolded = []
    for operator in graph.operators:
        source = graph.tensors[operator.inputs[0]] if len(operator.inputs) else None
        if (
            source is None
            or operator_name(model, operator) != "DEQUANTIZE"
            or schema.types[source.type] != "FLOAT16"
            or source.sparsity is not None
            or not _length(model.buffers[source.buffer])
        ):
            kept.append(operator)
            continue
        halves = np.frombuffer(bytes(model.buffers[source.buffer].data), np.float16)
        buffer = schema.BufferT()
        buffer.data = halves.astype(np.float32).view(np.uint8)
        model.buffers.append(buffer)
        graph.tensors[operator.outputs[0]].buffer = len(model.buffers) - 1
        unfolded.append(source)
    graph.operators = kept
    for source in unfolded:
        _empty(model, source)


def _empty(model: Any, tensor: Any) -> None:
    """Leave a single zero in a tensor that nothing reads; without data the quantizer fails on it."""
    schema = _import()
    model.buffers[tensor.buffer].data = np.zeros(1, np.float32).view(np.uint8)
    tensor.type, tensor.shape, tensor.shapeSignature = schema.FLOAT32, [1], None


def _signature(graph: Any) -> Any:
    schema = _import()
    definition = schema.SignatureDefT()
    definition.signatureKey, definition.subgraphIndex = SIGNATURE, 0
    definition.inputs = [_mapping(schema, graph, index) for index in graph.inputs]
    definition.outputs = [_mapping(schema, graph, index) for index in graph.outputs]
    return definition


def _mapping(schema: SimpleNamespace, graph: Any, index: int) -> Any:
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = graph.tensors[index].name, index
    return entry


def _verify(content: bytes) -> None:
    if content[IDENTIFIER_OFFSET_BYTES : IDENTIFIER_OFFSET_BYTES + 4] != IDENTIFIER:
        raise ValueError("no TFLite identifier")


def _check_indexes(model: Any, graph: Any) -> None:
    for tensor in graph.tensors:
        model.buffers[tensor.buffer]
    for index in (*graph.inputs, *graph.outputs):
        graph.tensors[index]
    for operator in graph.operators:
        model.operatorCodes[operator.opcodeIndex]


def _stored_bytes(model: Any) -> Counter[str]:
    types = _import().types
    stored: Counter[str] = Counter()
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            stored[types[tensor.type]] += _length(model.buffers[tensor.buffer])
    return stored


def _length(buffer: Any) -> int:
    return 0 if buffer.data is None else len(buffer.data)


@functools.cache
def _import() -> SimpleNamespace:
    try:
        from ai_edge_litert import schema_py_generated as schema
        from ai_edge_litert.tools import flatbuffer_utils
    except ImportError as error:
        raise missing("ai-edge-litert") from error
    return SimpleNamespace(
        utils=flatbuffer_utils,
        BufferT=schema.BufferT,
        SignatureDefT=schema.SignatureDefT,
        TensorMapT=schema.TensorMapT,
        FLOAT32=schema.TensorType.FLOAT32,
        types={value: name for name, value in vars(schema.TensorType).items() if isinstance(value, int)},
        codes={value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)},
    )
