"""The one module that reads and rewrites TFLite files: what a model is made of, and its normal form.

Source: https://github.com/google-ai-edge/LiteRT, `tflite/schema.fbs`. ai_edge_litert's schema is imported
when a model is read, never with this module.
"""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import numpy as np

from converters.formats import tflite_checks
from converters.formats.tflite_schema import length, operator_name, schema, tensor_name
from edge_agent.documents.errors import ModelError
from edge_agent.documents.manifest import Precision

IDENTIFIER: Final = tflite_checks.IDENTIFIER
IDENTIFIER_OFFSET_BYTES: Final = tflite_checks.IDENTIFIER_OFFSET_BYTES

COMPUTING: Final = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "BATCH_MATMUL")
SIGNATURE: Final = b"serving_default"


def read(path: Path) -> Any:
    """Return the schema's `ModelT` of a file; raises ModelError if it is truncated or damaged."""
    content = path.read_bytes()
    reader = schema().utils
    try:
        tflite_checks.check_counts(content)
        model = reader.read_model_from_bytearray(bytearray(content))
        tflite_checks.check_structure(model)
    except Exception as error:
        raise ModelError(
            f"{path} is truncated or damaged: it begins as a TFLite model but cannot be read as one; give a "
            "complete file."
        ) from error
    tflite_checks.check_custom_operators(path, model)
    tflite_checks.check_weights(path, model)
    return model


def read_content(content: bytes) -> Any:
    """Return the schema's `ModelT` of a file's bytes, which must be whole."""
    return schema().utils.read_model_from_bytearray(bytearray(content))


def operators(model: Any) -> Counter[str]:
    """Count the operators of all subgraphs by name; custom ones by their own."""
    return Counter(operator_name(model, operator) for graph in model.subgraphs for operator in graph.operators)


def versions(model: Any) -> dict[str, int]:
    """Return the version of the schema."""
    return {"schema": int(model.version)}


def precision(model: Any) -> Precision:
    """Name the precision by what goes into the operators that compute, else by the datatype of the weights."""
    types = schema().types
    activations: set[str] = set()
    weights: set[str] = set()
    for graph in model.subgraphs:
        for operator in graph.operators:
            if operator_name(model, operator) in COMPUTING:
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
        _name_tensors(graph)
    if not model.signatureDefs:
        model.signatureDefs = [_signature(model.subgraphs[0])]
    return serialised(model)


def with_outputs_of(content: bytes, source: Any) -> bytes:
    """Return the model with the output names of another one, in their order, and its free dimensions there.

    The quantizer appends a DEQUANTIZE to each output, calls what comes out of it `<name>_dequant`, and forgets
    which of its dimensions were free.
    """
    wanted = source.subgraphs[0]
    free = [wanted.tensors[index].shapeSignature for index in wanted.outputs]
    return _with_outputs(content, output_names(source), free)


def _with_outputs(content: bytes, names: list[str], free: list[Any]) -> bytes:
    model = read_content(content)
    graph = model.subgraphs[0]
    for index, name, signature in zip(graph.outputs, names, free, strict=True):
        graph.tensors[index].shapeSignature = signature
        encoded = name.encode()
        for tensor in graph.tensors:
            if tensor.name == encoded:
                tensor.name = encoded + b"_quantized"
        graph.tensors[index].name = encoded
    return serialised(model)


def output_names(model: Any) -> list[str]:
    """Return the names of the first subgraph's output tensors, in their order."""
    graph = model.subgraphs[0]
    return [tensor_name(graph.tensors[index]) for index in graph.outputs]


def float_ends(model: Any) -> dict[str, list[str]]:
    """Return the names of the float tensors under `input` and under `output`."""
    graph, kind = model.subgraphs[0], schema().FLOAT32
    ends = {"input": graph.inputs, "output": graph.outputs}
    return {
        end: [tensor_name(graph.tensors[index]) for index in indexes if graph.tensors[index].type == kind]
        for end, indexes in ends.items()
    }


def io_parameters(model: Any) -> dict[str, tuple[float, int]]:
    """Return scale and zero point of the quantized inputs and outputs, by name."""
    graph = model.subgraphs[0]
    found = {}
    for index in (*graph.inputs, *graph.outputs):
        tensor = graph.tensors[index]
        known = tensor.quantization
        if known is not None and known.scale is not None and len(known.scale):
            zero = int(known.zeroPoint[0]) if known.zeroPoint is not None and len(known.zeroPoint) else 0
            found[tensor_name(tensor)] = float(known.scale[0]), zero
    return found


def signature_inputs(model: Any) -> dict[str, str]:
    """Return, by input tensor name, what the first signature calls that input."""
    graph = model.subgraphs[0]
    return {
        tensor_name(graph.tensors[entry.tensorIndex]): bytes(entry.name).decode()
        for entry in model.signatureDefs[0].inputs
    }


def signature_key(model: Any) -> str:
    """Return the key of the first signature."""
    return bytes(model.signatureDefs[0].signatureKey).decode()


def serialised(model: Any) -> bytes:
    """Return the file's bytes, with all weights inside the flatbuffer, which every runtime can read.

    Equal vectors are stored once. A tensor with a scale for each channel has as many zero points, of 8 bytes
    and all 0, which no runtime lets be left out: in a small dense network they are 5 % of the int8 file.
    """
    builder = schema().SharingBuilder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _name_tensors(graph: Any) -> None:
    """Give tensors without a name one, since the quantizer finds them by it."""
    for index, tensor in enumerate(graph.tensors):
        tensor.name = tensor.name or f"tensor_{index}".encode()


def _unfold_half_weights(model: Any, graph: Any) -> None:
    """Turn `float16 constant -> DEQUANTIZE` into a float32 constant; exact, since every half is a float."""
    kinds = schema()
    kept = []
    unfolded = []
    for operator in graph.operators:
        source = graph.tensors[operator.inputs[0]] if len(operator.inputs) else None
        if (
            source is None
            or operator_name(model, operator) != "DEQUANTIZE"
            or kinds.types[source.type] != "FLOAT16"
            or source.sparsity is not None
            or not length(model.buffers[source.buffer])
        ):
            kept.append(operator)
            continue
        halves = np.frombuffer(bytes(model.buffers[source.buffer].data), np.float16)
        buffer = kinds.BufferT()
        buffer.data = halves.astype(np.float32).view(np.uint8)
        model.buffers.append(buffer)
        graph.tensors[operator.outputs[0]].buffer = len(model.buffers) - 1
        unfolded.append(source)
    graph.operators = kept
    for source in unfolded:
        _empty(model, source)


def _empty(model: Any, tensor: Any) -> None:
    """Leave a single zero in a tensor that nothing reads; without data the quantizer fails on it."""
    kinds = schema()
    model.buffers[tensor.buffer].data = np.zeros(1, np.float32).view(np.uint8)
    tensor.type, tensor.shape, tensor.shapeSignature = kinds.FLOAT32, [1], None


def _signature(graph: Any) -> Any:
    kinds = schema()
    definition = kinds.SignatureDefT()
    definition.signatureKey, definition.subgraphIndex = SIGNATURE, 0
    definition.inputs = [_mapping(kinds, graph, index) for index in graph.inputs]
    definition.outputs = [_mapping(kinds, graph, index) for index in graph.outputs]
    return definition


def _mapping(kinds: SimpleNamespace, graph: Any, index: int) -> Any:
    entry = kinds.TensorMapT()
    entry.name, entry.tensorIndex = graph.tensors[index].name, index
    return entry


def _stored_bytes(model: Any) -> Counter[str]:
    types = schema().types
    stored: Counter[str] = Counter()
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            stored[types[tensor.type]] += length(model.buffers[tensor.buffer])
    return stored
