import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.checks.boundary import Quantization, dequantized, quantized

INT8 = Quantization(0.5, 3, "INT8")
KINDS = [("INT8", -128, 127), ("UINT8", 0, 255), ("INT16", -32768, 32767), ("UINT16", 0, 65535)]


def test_halves_go_to_the_even() -> None:
    values = np.array([-0.75, -0.25, 0.25, 0.75, 1.25], np.float32)

    got = quantized({"x": values}, {"x": INT8})["x"]

    assert got.dtype == np.int8
    assert (got - 3).tolist() == [-2, 0, 0, 2, 2]


def test_tensors_without_parameters_stay() -> None:
    sample = {"x": np.array([1.0]), "length": np.array([4])}

    assert quantized(sample, {"x": INT8})["length"] is sample["length"]
    assert dequantized(sample, {})["x"] is sample["x"]


@pytest.mark.parametrize(("datatype", "low", "high"), KINDS)
def test_what_is_too_large_is_the_largest(datatype, low: int, high: int) -> None:
    how = Quantization(1e-3, 1, datatype)

    got = quantized({"x": np.array([-1e9, 1e9, -np.inf, np.inf], np.float32)}, {"x": how})["x"]

    assert got.tolist() == [low, high, low, high]


@given(st.sampled_from(KINDS), st.floats(2**-12, 8, width=32), st.data())
def test_there_and_back_is_off_by_half_a_step(kind, scale: float, data: st.DataObject) -> None:
    datatype, low, high = kind
    zero = data.draw(st.integers(low, high))
    how = Quantization(scale, zero, datatype)
    steps = data.draw(st.lists(st.floats(low - zero, high - zero, width=32), min_size=1, max_size=9))
    values = np.array(steps, np.float32) * np.float32(scale)

    integers = quantized({"x": values}, {"x": how})
    again = dequantized(integers, {"x": how})["x"]

    assert again.dtype == np.float32
    assert (np.abs(again - values) <= 0.5 * scale * 1.001 + 1e-6 * np.abs(values)).all()
    np.testing.assert_array_equal(quantized({"x": again}, {"x": how})["x"], integers["x"])


def test_same_as_onnx_runtime(tmp_path) -> None:
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["back"]),
        ],
        "model",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [
            helper.make_tensor_value_info("q", TensorProto.UINT8, ["n"]),
            helper.make_tensor_value_info("back", TensorProto.FLOAT, ["n"]),
        ],
        [numpy_helper.from_array(np.float32(0.1), "scale"), numpy_helper.from_array(np.uint8(7), "zero")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    values = np.concatenate([np.random.default_rng(0).normal(5, 12, 2000), np.arange(-40, 80) * 0.05])
    values = values.astype(np.float32)

    integers, back = session.run(None, {"x": values})

    how = {"x": Quantization(0.1, 7, "UINT8")}
    np.testing.assert_array_equal(quantized({"x": values}, how)["x"], integers)
    np.testing.assert_array_equal(dequantized({"x": integers}, how)["x"], back)
