"""Small changes to ONNX models: names, the order of outputs, the version of operators."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from converters.formats.onnx_canonical import BATCH
from converters.formats.onnx_walk import copied, graphs

_ATTRIBUTE_INT: Final = 2
"""`AttributeProto.INT`."""
_TENSOR_INT64: Final = 7
"""`TensorProto.INT64`."""


def rename_dimension(model: Any, old: str, new: str) -> None:
    """Give a free dimension another name, also within expressions."""
    word = re.compile(rf"\b{re.escape(old)}\b")
    for graph in graphs(model.graph):
        for value in (*graph.input, *graph.output, *graph.value_info):
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_param:
                    dim.dim_param = word.sub(new, dim.dim_param)


def rename_values(model: Any, names: Mapping[str, str]) -> None:
    """Give values other names; inner values that have one of the new names give way."""
    made = {name for graph in graphs(model.graph) for node in graph.node for name in node.output}
    made |= {tensor.name for graph in graphs(model.graph) for tensor in graph.initializer}
    clashing = {name: f"{name}_inner" for name in made & set(names.values()) - names.keys()}
    names = {**clashing, **names}
    for graph in graphs(model.graph):
        for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
            value.name = names.get(value.name, value.name)
        for node in graph.node:
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]


def reorder_outputs(model: Any, first: Sequence[str]) -> None:
    """Put these outputs before the others."""
    outputs = [copied(output) for output in model.graph.output]
    del model.graph.output[:]
    model.graph.output.extend(sorted(outputs, key=lambda output: output.name not in first))


def mirror(model: Any, name: str, column: int) -> None:
    """Make an output [n, 2] of one column of it, the score of the second of two classes: the negative first.

    So that classes are read from the larger one, whether the output was [n, 1] or [n, 2].
    """
    graph = model.graph
    raw, first, second = f"{name}_raw", f"{name}_first", f"{name}_second"
    rename_values(model, {name: raw})
    index = graph.initializer.add(name=f"{name}_column", data_type=_TENSOR_INT64, dims=[1])
    index.int64_data.append(column)
    gather = graph.node.add(op_type="Gather", name=second, input=[raw, index.name], output=[second])
    gather.attribute.add(name="axis", i=1, type=_ATTRIBUTE_INT)
    graph.node.add(op_type="Neg", name=first, input=[second], output=[first])
    both = graph.node.add(op_type="Concat", name=name, input=[first, second], output=[name])
    both.attribute.add(name="axis", i=1, type=_ATTRIBUTE_INT)
    for output in graph.output:
        if output.name == raw:
            output.name = name
            output.type.tensor_type.shape.dim[1].dim_value = 2


def name_batch(model: Any) -> None:
    """Call the first axis of inputs and outputs `batch` where it is free."""
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim[:1]:
            if not dim.HasField("dim_value"):
                dim.dim_param = BATCH


def set_opset(model: Any, version: int) -> None:
    """Set the version of the default operator set, for models whose operators mean the same there."""
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = version


def foreign_operators(model: Any) -> list[str]:
    """Name the operators of other sets than ONNX's own, which onnxruntime does not run by itself."""
    own = {"", "ai.onnx", "ai.onnx.ml", *(function.domain for function in model.functions)}
    return sorted(
        {
            f"{node.domain}:{node.op_type}"
            for graph in graphs(model.graph)
            for node in graph.node
            if node.domain not in own
        }
    )
