"""Files whose tensors are elsewhere are found wherever the tensor is; anything else is told in one sentence."""

import contextlib
from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edge_agent.documents.errors import ModelLoadError
from edge_agent.engines.onnx_file import check
from support.models import affine_onnx

FLOAT = TensorProto.FLOAT


def elsewhere(name: str = "t") -> TensorProto:
    tensor = TensorProto(name=name, data_type=FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/passwd")
    return tensor


def here() -> TensorProto:
    return helper.make_tensor("t", FLOAT, [1], [1.0])


def graph(*initializers: TensorProto, nodes: tuple = ()) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "g", [], [], list(initializers))


def holder(tensor: TensorProto, place: str) -> onnx.ModelProto:
    sparse = onnx.SparseTensorProto(values=tensor, indices=here(), dims=[1])
    match place:
        case "initializer":
            return helper.make_model(graph(here(), tensor))
        case "sparse initializer":
            inner = graph()
            inner.sparse_initializer.append(sparse)
            return helper.make_model(inner)
        case "attribute":
            return helper.make_model(graph(nodes=(helper.make_node("Constant", [], ["c"], value=tensor),)))
        case "sparse attribute":
            node = helper.make_node("Constant", [], ["c"])
            node.attribute.append(helper.make_attribute("sparse_value", sparse))
            return helper.make_model(graph(nodes=(node,)))
        case "branch":
            node = helper.make_node("If", ["x"], ["y"], then_branch=graph(tensor), else_branch=graph())
            return helper.make_model(graph(nodes=(node,)))
        case "function":
            node = helper.make_node("Constant", [], ["c"], value=tensor)
            function = helper.make_function("own", "f", [], ["c"], [node], [helper.make_opsetid("", 17)])
            return helper.make_model(graph(), functions=[function])
        case _:
            model = helper.make_model(graph())
            model.training_info.add().algorithm.initializer.append(tensor)
            return model


PLACES = (
    "initializer",
    "sparse initializer",
    "attribute",
    "sparse attribute",
    "branch",
    "function",
    "training",
)


@pytest.mark.parametrize("place", PLACES)
def test_a_tensor_in_another_file_is_found_in_every_place(tmp_path: Path, place: str) -> None:
    path = tmp_path / "m"
    path.write_bytes(holder(here(), place).SerializeToString())
    check(path)
    path.write_bytes(holder(elsewhere(), place).SerializeToString())
    with pytest.raises(ModelLoadError, match="other files"):
        check(path)
    only_said = elsewhere()
    del only_said.external_data[:]
    path.write_bytes(holder(only_said, place).SerializeToString())
    with pytest.raises(ModelLoadError, match="other files"):
        check(path)


def test_a_sound_model_of_some_size(tmp_path: Path) -> None:
    check(affine_onnx(tmp_path / "m", 2.0, padding_bytes=2**20))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"\x18\0\0\0ORTM\0\0", "ONNX Runtime's own format"),
        (b"\x3a\xff\x01short", "beyond the end"),
        (b"\xff" * 30, "beyond the end"),
        (b"\x0b\x0c", "a type that there is not"),
    ],
)
def test_what_is_no_onnx(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(ModelLoadError, match=says):
        check(tmp_path / "m")


def test_parts_that_lie_too_deep(tmp_path: Path) -> None:
    content = b""
    for _ in range(40):
        for tag in (0x32, 0x2A, 0x0A):  # AttributeProto.g, NodeProto.attribute, GraphProto.node
            content = bytes([tag]) + _length(len(content)) + content
    (tmp_path / "m").write_bytes(b"\x3a" + _length(len(content)) + content)
    with pytest.raises(ModelLoadError, match="deep"):
        check(tmp_path / "m")


def _length(size: int) -> bytes:
    out = bytearray()
    while size > 0x7F:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([*out, size])


@given(st.binary(min_size=1, max_size=400), st.integers(0, 300))
def test_no_content_breaks_the_check(tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int) -> None:
    sound = holder(elsewhere(), "branch").SerializeToString()
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    for content in (noise, sound[:at] + noise + sound[at:], sound[:at] or b"x"):
        path.write_bytes(content)
        with contextlib.suppress(ModelLoadError):
            check(path)
