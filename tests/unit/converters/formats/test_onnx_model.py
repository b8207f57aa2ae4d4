"""Readings of ONNX graphs with constants in unusual places, and how those are stored."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from converters.formats import onnx_model
from edge_agent.documents.settings import EngineSettings
from edge_agent.engines.onnx import OnnxEngine
from support import convertible

WIDTH = 32
SHAPE = ["n", WIDTH]
MATRIX = np.random.default_rng(1).normal(size=(WIDTH, WIDTH)).astype(np.float32)


def branch(name: str, matrix: np.ndarray) -> onnx.GraphProto:
    """Return a branch that multiplies by a matrix of its own, inside a further If."""
    output = helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE)
    inner = [
        helper.make_graph(
            [helper.make_node("MatMul", ["image", "matrix"], [f"{name}_{kind}"])],
            kind,
            [],
            [helper.make_tensor_value_info(f"{name}_{kind}", TensorProto.FLOAT, SHAPE)],
        )
        for kind in ("first", "second")
    ]
    node = helper.make_node("If", ["positive"], [name], then_branch=inner[0], else_branch=inner[1])
    return helper.make_graph([node], name, [], [output], [numpy_helper.from_array(matrix, "matrix")])


def branching(path: Path, yes: np.ndarray, no: np.ndarray) -> Path:
    branches = {"then_branch": branch("yes", yes), "else_branch": branch("no", no)}
    nodes = [
        helper.make_node("ReduceSum", ["image"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["scores"], **branches),
    ]
    return convertible.save_onnx(path, nodes, {"zero": np.float32(0)}, SHAPE, SHAPE)


def answers(path: Path) -> list[np.ndarray]:
    engine = OnnxEngine.load(path, EngineSettings())
    return [engine.run({"image": sign * np.ones((1, WIDTH), np.float32)})["scores"] for sign in (1, -1)]


class TestSharing:
    def test_what_branches_hold_alike_is_stored_once(self, tmp_path: Path) -> None:
        path, shared = branching(tmp_path / "if.onnx", MATRIX, MATRIX), tmp_path / "shared.onnx"
        model = onnx.load(path)
        onnx_model.share_constants(model)
        onnx_model.save(model, shared)

        onnx_model.read(shared)
        assert shared.stat().st_size < path.stat().st_size - 0.9 * MATRIX.nbytes
        for one, other in zip(answers(path), answers(shared), strict=True):
            # A constant of the main graph may be packed for another kernel.
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)

    def test_constants_of_one_name_that_differ_stay_apart(self, tmp_path: Path) -> None:
        path, shared = branching(tmp_path / "if.onnx", MATRIX, 2 * MATRIX), tmp_path / "shared.onnx"
        model = onnx.load(path)
        onnx_model.share_constants(model)
        onnx_model.save(model, shared)

        assert shared.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(("datatype", "precision"), [(np.float16, "fp16"), (np.float32, "fp32")])
def test_weights_in_constant_nodes_tell_the_precision(tmp_path: Path, datatype: Any, precision: str) -> None:
    value = numpy_helper.from_array(MATRIX.astype(datatype))
    nodes = [
        helper.make_node("Constant", [], ["stored"], value=value),
        helper.make_node("Cast", ["stored"], ["matrix"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["image", "matrix"], ["scores"]),
    ]
    path = convertible.save_onnx(tmp_path / "model.onnx", nodes, {}, SHAPE, SHAPE)

    assert onnx_model.precision(onnx_model.read(path)) == precision
