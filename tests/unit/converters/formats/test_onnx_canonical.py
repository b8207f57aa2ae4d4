"""Models that differ in inner names and order alone become the same bytes, and still answer the same."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from converters.formats.onnx_canonical import canonical

WEIGHTS = np.arange(6, dtype=np.float32).reshape(2, 3)


def model(prefix: str, *, backwards: bool = False, copied_first: bool = False) -> onnx.ModelProto:
    """`y` is a product, plus what a loop of three rounds adds up; the loop's outputs are one value twice."""

    def name(one: str) -> str:
        return f"{prefix}{one}"

    total = helper.make_node("Add", [name("state"), name("one")], [name("sum")])
    copy = helper.make_node("Identity", [name("sum")], [name("copy")])
    go = helper.make_node("Identity", [name("go")], [name("went")])
    values = [name("copy"), name("sum")] if copied_first else [name("sum"), name("copy")]
    body = helper.make_graph(
        [total, copy, go],
        name("body"),
        [
            helper.make_tensor_value_info(name("i"), TensorProto.INT64, []),
            helper.make_tensor_value_info(name("go"), TensorProto.BOOL, []),
            helper.make_tensor_value_info(name("state"), TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info(name("went"), TensorProto.BOOL, []),
            *(helper.make_tensor_value_info(value, TensorProto.FLOAT, [1]) for value in values),
        ],
    )
    nodes = [
        helper.make_node("MatMul", ["in", name("weights")], [name("product")], name="net/dense/MatMul__17"),
        helper.make_node(
            "Loop",
            [name("rounds"), "", name("start")],
            [name("last"), name("all")],
            name=name("loop"),
            body=body,
        ),
        helper.make_node("Add", [name("product"), name("last")], ["out"], name=name("add")),
    ]
    if backwards:
        nodes[0], nodes[1] = nodes[1], nodes[0]
    arrays = {
        "weights": WEIGHTS,
        "rounds": np.array(3),
        "start": np.ones(1, np.float32),
        "one": np.ones(1, np.float32),
    }
    constants = [numpy_helper.from_array(array, name(one)) for one, array in arrays.items()]
    graph = helper.make_graph(
        nodes,
        name("graph"),
        [helper.make_tensor_value_info("in", TensorProto.FLOAT, [f"{prefix}_batch", 2])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [f"{prefix}_batch", 3])],
        constants[::-1] if backwards else constants,
        doc_string=f"made by {prefix}",
    )
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 2)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def settled(proto: onnx.ModelProto) -> bytes:
    canonical(proto, {"in": "x"}, {"out": "y"})
    onnx.checker.check_model(proto, full_check=True)
    return proto.SerializeToString(deterministic=True)


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("copied_first", [False, True])
def test_inner_names_and_order_do_not_matter(backwards: bool, copied_first: bool) -> None:
    assert settled(model("a")) == settled(model("zz__9", backwards=backwards, copied_first=copied_first))


def test_other_weights_do_matter() -> None:
    other = model("a")
    other.graph.initializer[0].CopyFrom(numpy_helper.from_array(WEIGHTS + 1, "aweights"))
    assert settled(model("a")) != settled(other)


def test_the_answers_stay_and_names_tell_the_layer() -> None:
    proto = model("a")
    value = np.array([[1, 2]], np.float32)
    before = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"in": value})[0]
    content = settled(proto)
    after = onnxruntime.InferenceSession(content).run(["y"], {"x": value})[0]
    assert after.tolist() == before.tolist() == (value @ WEIGHTS + 4).tolist()
    assert [node.name for node in proto.graph.node] == ["net/dense/MatMul", "Loop", "Add"]
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert len(proto.graph.initializer) == 3
    assert [entry.domain for entry in proto.opset_import] == [""]
