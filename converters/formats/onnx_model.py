"""The one module that reads ONNX files: what a model is made of, and whether it can be converted.

Source: https://onnx.ai/onnx/api/. onnx is imported when a model is read, never with this module.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from converters.errors import ConversionError, first_line, missing
from converters.formats import onnx_checks
from converters.formats.names import unused
from converters.formats.onnx_walk import copied, graphs, inner
from edge_agent.documents.errors import ModelError
from edge_agent.documents.manifest import Precision

OLDEST_OPSET: Final = 7
"""The oldest that ONNX Runtime has operators for: https://onnxruntime.ai/docs/reference/compatibility.html."""

MIN_OPSET: Final = 13
"""Per-channel QuantizeLinear came with opset 13; models below it quantize badly."""

GEMM_BIAS: Final = 2
"""Position of the bias among a Gemm's inputs."""

_WORTH_SHARING_BYTES: Final = 1024

_STATIC: Final = frozenset({"QuantizeLinear", "QLinearConv", "QLinearMatMul"})
_DYNAMIC: Final = frozenset({"DynamicQuantizeLinear", "MatMulInteger", "DynamicQuantizeMatMul", "ConvInteger"})
_RANDOM: Final = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
)


def read(path: Path) -> Any:
    """Return the `onnx.ModelProto` of a file after checking it; raises ModelError with what is wrong."""
    onnx = library()
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:
        raise ModelError(
            f"{path} is neither an ONNX nor a TFLite model, or it is truncated; give a complete .onnx or "
            ".tflite file."
        ) from error
    if not model.graph.node and not model.graph.output:
        raise ModelError(
            f"{path} is neither an ONNX nor a TFLite model: it holds no graph; give a complete .onnx or "
            ".tflite file."
        )
    try:
        _check(onnx, path, model)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"{path} is not a valid ONNX model: {first_line(error)}; export it again.") from error
    return model


def _check(onnx: ModuleType, path: Path, model: Any) -> None:
    onnx_checks.check_external_data(path, model)
    onnx_checks.check_custom_operators(path, model)
    onnx_checks.check_weights(path, model)
    _check_opset(path, model)
    onnx.checker.check_model(model)


def _check_opset(path: Path, model: Any) -> None:
    found = opset(model)
    if 0 < found < OLDEST_OPSET:
        raise ModelError(
            f"{path} uses opset {found}, which is too old for ONNX Runtime and for an upgrade; export it again "
            f"with opset {MIN_OPSET} or above."
        )


def operators(model: Any) -> Counter[str]:
    """Count the operators of a model, those of subgraphs included, by type."""
    return Counter(node.op_type for graph in graphs(model.graph) for node in graph.node)


def precision(model: Any) -> Precision:
    """Name the precision by the operators and by the datatype that most weight bytes have."""
    onnx = library()
    found = operators(model).keys()
    if found & _STATIC:
        return "int8"
    if found & _DYNAMIC:
        return "dynamic"
    weights: Counter[int] = Counter()
    for tensor in _constants(model):
        weights[tensor.data_type] += tensor.ByteSize()
    half, full = weights[onnx.TensorProto.FLOAT16], weights[onnx.TensorProto.FLOAT]
    return "fp16" if half > full else "fp32"


def _constants(model: Any) -> Iterator[Any]:
    """Yield the tensors that a model holds: initializers, and what Constant nodes give."""
    for graph in graphs(model.graph):
        yield from graph.initializer
        for node in graph.node:
            if node.op_type == "Constant":
                yield from (attribute.t for attribute in node.attribute if attribute.HasField("t"))


def is_random(model: Any) -> bool:
    """Say whether the model draws random numbers."""
    return bool(operators(model).keys() & _RANDOM)


def opset(model: Any) -> int:
    """Return the version of the default operator set, 0 if the model uses none of it."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def constant_names(model: Any) -> frozenset[str]:
    """Return the names of the graph's constants: initializers, and what Constant nodes give."""
    made = {node.output[0] for node in model.graph.node if node.op_type == "Constant"}
    return frozenset(made | {tensor.name for tensor in model.graph.initializer})


def quantizable_weights(model: Any) -> int:
    """Count MatMul and Gemm nodes with a constant second operand: what dynamic quantization can reach."""
    constants = constant_names(model)
    return sum(
        1
        for node in model.graph.node
        if node.op_type in ("MatMul", "Gemm") and len(node.input) > 1 and node.input[1] in constants
    )


def upgraded(model: Any) -> Any:
    """Return the model at opset 13 or above; raises ConversionError if onnx cannot bring it there."""
    if opset(model) >= MIN_OPSET:
        return model
    onnx = library()
    try:
        return onnx.version_converter.convert_version(model, MIN_OPSET)
    except Exception as error:
        raise ConversionError(
            f"The model uses opset {opset(model)}, quantization needs {MIN_OPSET} or above, and onnx cannot "
            f"upgrade it ({first_line(error)}); export it again with opset {MIN_OPSET} or above."
        ) from error


def flatten_gemm_biases(model: Any) -> None:
    """Give Gemm biases of shape [1, n] the shape [n], which means the same.

    onnxruntime makes such biases when it fuses MatMul and Add, and its own static quantizer then fails on them
    (https://github.com/microsoft/onnxruntime/issues/24815).
    """
    users: dict[str, list[str]] = {}
    for node in model.graph.node:
        for position, name in enumerate(node.input):
            is_bias = node.op_type == "Gemm" and position == GEMM_BIAS
            users.setdefault(name, []).append("bias" if is_bias else "other")
    for tensor in model.graph.initializer:
        if len(tensor.dims) == 2 and tensor.dims[0] == 1 and set(users.get(tensor.name, ())) == {"bias"}:
            del tensor.dims[0]


def name_nodes(model: Any) -> None:
    """Give every node of the graph a name of its own, since exclusions go by names; same model, same names."""
    taken: set[str] = set()
    for index, node in enumerate(model.graph.node):
        wanted = node.name or f"{node.op_type}_{index}"
        while wanted in taken:
            wanted = f"{wanted}_{index}"
        node.name = wanted
        taken.add(wanted)


def sort_nodes(model: Any) -> None:
    """Bring the graph's nodes into an order in which each comes after those that it depends on."""
    graph = model.graph
    made = {name for node in graph.node for name in node.output}
    pending, done, ordered = list(graph.node), set[str](), []
    while pending:
        ready = [node for node in pending if not (_read_by(node) & made - done)]
        if not ready:
            raise ConversionError("The model's nodes depend on each other in a circle; export it again.")
        ordered += ready
        done |= {name for node in ready for name in node.output}
        chosen = set(map(id, ready))
        pending = [node for node in pending if id(node) not in chosen]
    copies = [copied(node) for node in ordered]
    del graph.node[:]
    graph.node.extend(copies)


def share_constants(model: Any) -> None:
    """Store constants that several subgraphs hold alike once, in the main graph.

    onnxruntime folds the weights of an LSTM that stands in both branches of an If into each of them.
    """
    held: dict[bytes, list[tuple[Any, Any]]] = {}
    for graph in (one for one in graphs(model.graph) if one is not model.graph):
        ends = {value.name for value in (*graph.input, *graph.output)}
        for tensor in (one for one in graph.initializer if one.name not in ends):
            told = type(tensor).FromString(tensor.SerializeToString())
            told.ClearField("name")
            held.setdefault(told.SerializeToString(deterministic=True), []).append((graph, tensor))
    taken = {tensor.name for tensor in _constants(model)}
    for content, places in held.items():
        if len(places) < 2 or len(content) < _WORTH_SHARING_BYTES:
            continue
        shared = model.graph.initializer.add()
        shared.CopyFrom(places[0][1])
        shared.name = unused(f"{shared.name}/shared", taken)
        for graph, tensor in places:
            _rename_read(graph, tensor.name, shared.name)
            graph.initializer.remove(tensor)


def _rename_read(graph: Any, old: str, new: str) -> None:
    for node in graph.node:
        for position, name in enumerate(node.input):
            if name == old:
                node.input[position] = new
        for graph_inside in inner(node):
            _rename_read(graph_inside, old, new)


def _read_by(node: Any) -> set[str]:
    """Return what a node reads, from inside its subgraphs too."""
    names = set(node.input)
    for graph in inner(node):
        names |= {name for held in graph.node for name in _read_by(held)}
    return names


def element_bits(data_type: int) -> int | None:
    """Return the bits of one element of a tensor's datatype, None for text."""
    onnx = library()
    if data_type == onnx.TensorProto.STRING:
        return None
    name = onnx.TensorProto.DataType.Name(data_type)
    if name.endswith(("INT4", "FLOAT4E2M1")):
        return 4
    if name.endswith("INT2"):
        return 2
    return 8 * int(onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize)


def tensor_shapes(model: Any) -> dict[str, tuple[int, tuple[int, ...] | None]]:
    """Return, by tensor name, the bits of an element and the shape, None where it is not known before a run.

    A free first dimension of an input counts as 1, and so does one that follows from it.
    """
    onnx = library()
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in fixed.graph.input:
        dimensions = value.type.tensor_type.shape.dim
        if dimensions and not dimensions[0].HasField("dim_value"):
            dimensions[0].dim_value = 1
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    del fixed.graph.value_info[:]
    try:
        graph = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
    except Exception:
        graph = fixed.graph
    return {value.name: _shape(value) for value in (*graph.input, *graph.value_info, *graph.output)}


def versions(model: Any) -> dict[str, int]:
    """Return the versions of the format and, by domain, of the operator sets."""
    sets = {entry.domain or "ai.onnx": int(entry.version) for entry in model.opset_import}
    return {"ir_version": int(model.ir_version)} | {
        f"opset {domain}": number for domain, number in sets.items()
    }


def save(model: Any, path: Path) -> None:
    """Write a model to one file."""
    path.write_bytes(model.SerializeToString(deterministic=True))


def _shape(value: Any) -> tuple[int, tuple[int, ...] | None]:
    tensor = value.type.tensor_type
    bits = element_bits(tensor.elem_type) if tensor.elem_type else None
    if bits is None or not tensor.HasField("shape"):
        return 0, None
    sizes = [
        size.dim_value if size.HasField("dim_value") else (1 if axis == 0 else -1)
        for axis, size in enumerate(tensor.shape.dim)
    ]
    return bits, None if -1 in sizes else tuple(sizes)


def library() -> ModuleType:
    """Return onnx with its parts; raises ToolMissingError."""
    try:
        import onnx
        import onnx.checker
        import onnx.helper
        import onnx.shape_inference
        import onnx.version_converter
    except ImportError as error:
        raise missing("onnx") from error
    module: ModuleType = onnx
    return module
