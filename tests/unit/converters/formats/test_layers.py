from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from converters.arrays import named, write_arrays
from converters.formats import layers, onnx_model, tflite_model
from converters.formats.layers import LayerSize
from converters.formats.sources import SourceModel, read_source
from converters.quantize import onnx as quantize_onnx
from converters.quantize import tflite as quantize_tflite
from support import convertible

FILTERS = LayerSize("convolved", "Conv", 16 * 9 * 4, 16 * 9)
LAST = LayerSize("scores", "Gemm", (400 * 4 + 4) * 4, 400 * 4 + 4)


@pytest.fixture(scope="module")
def weights() -> convertible.Weights:
    return convertible.fitted()


def test_layers_of_an_onnx_model(tmp_path: Path, weights: convertible.Weights) -> None:
    source = read_source(convertible.write_onnx(tmp_path / "m.onnx", weights))

    assert layers.layer_sizes(source) == [FILTERS, LAST]
    assert layers.weight_bytes(source) == FILTERS.weight_bytes + LAST.weight_bytes


def test_layers_of_a_tflite_model(tmp_path: Path, weights: convertible.Weights) -> None:
    source = read_source(convertible.write_tflite(tmp_path / "m.tflite", weights))

    # TFLite's convolution has a bias of 16 besides.
    assert layers.layer_sizes(source) == [
        LayerSize("convolved", "CONV_2D", 16 * 9 * 4 + 16 * 4, 16 * 9 + 16),
        LayerSize("scores", "FULLY_CONNECTED", LAST.weight_bytes, LAST.parameters),
    ]


def test_half_weights_count_for_the_layer_behind_dequantize(
    tmp_path: Path, weights: convertible.Weights
) -> None:
    source = read_source(convertible.write_tflite(tmp_path / "m.tflite", weights, half=True, old=True))

    assert layers.layer_sizes(source)[1] == LayerSize(
        "scores", "FULLY_CONNECTED", LAST.weight_bytes // 2, LAST.parameters
    )


def test_quantized_weights_count_with_scales_but_those_are_no_parameters(
    tmp_path: Path, weights: convertible.Weights
) -> None:
    path = convertible.write_onnx(tmp_path / "m.onnx", weights)
    samples = [{"image": one[None, None]} for one in convertible.images(8).pixels]
    quantize_onnx.quantize_static(path, tmp_path / "q.onnx", samples, signed_activations=False)

    found = layers.layer_sizes(read_source(tmp_path / "q.onnx"))

    convolution = next(layer for layer in found if layer.operator == "Conv")
    assert convolution.parameters == FILTERS.parameters
    assert FILTERS.parameters < convolution.weight_bytes < FILTERS.weight_bytes // 2


def test_dynamic_weights_are_those_of_the_integer_product(tmp_path: Path, weights: convertible.Weights) -> None:
    path = convertible.write_onnx(tmp_path / "m.onnx", weights)
    quantize_onnx.quantize_dynamic(path, tmp_path / "q.onnx")

    product = next(
        layer
        for layer in layers.layer_sizes(read_source(tmp_path / "q.onnx"))
        if layer.operator == "MatMulInteger"
    )

    assert product.parameters == 1600
    assert 1600 < product.weight_bytes < 1700


def test_quantized_tflite_holds_a_quarter(tmp_path: Path, weights: convertible.Weights) -> None:
    path = convertible.write_tflite(tmp_path / "m.tflite", weights)
    samples = [{"image": one[None, :, :, None]} for one in convertible.images(8).pixels]
    write_arrays(tmp_path / "samples.npz", named(samples, "input"))
    quantize_tflite.quantize_static(path, tmp_path / "q.tflite", samples)

    found = layers.layer_sizes(read_source(tmp_path / "q.tflite"))

    dense = next(layer for layer in found if layer.operator == "FULLY_CONNECTED")
    assert dense.parameters == LAST.parameters
    assert dense.weight_bytes == 1600 + 4 * 4


def model_of(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], shape: list[object]) -> SourceModel:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return SourceModel(Path("m"), "onnx", "fp32", "", 0, onnx_model.operators(model), model)


def test_shared_constant_counts_once() -> None:
    shared = np.ones((4, 4), np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("MatMul", ["h", "w"], ["y"])]

    found = layers.layer_sizes(model_of(nodes, {"w": shared}, [1, 4]))

    assert found == [LayerSize("h", "MatMul", 64, 16)]


def test_constant_nodes_and_subgraphs_are_seen() -> None:
    one = helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(np.ones(4, np.float32)))
    inner = [helper.make_node("Mul", ["x", "v"], ["t"], name="inside")]
    branch = helper.make_graph(
        inner,
        "then",
        [],
        [helper.make_tensor_value_info("t", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(np.ones(4, np.float32), "v")],
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["e"])],
        "else",
        [],
        [helper.make_tensor_value_info("e", TensorProto.FLOAT, [1, 4])],
    )
    nodes = [
        helper.make_node("If", ["c"], ["h"], then_branch=branch, else_branch=other),
        one,
        helper.make_node("Add", ["h", "w"], ["y"], name="outside"),
    ]

    found = layers.layer_sizes(model_of(nodes, {"c": np.array(True)}, [1, 4]))

    assert [(layer.name, layer.parameters) for layer in found] == [("inside", 4), ("h", 1), ("outside", 4)]


def test_activations_are_what_is_alive_at_once() -> None:
    # x 16 B -> h 64 B -> y 16 B: x and h, then h and y.
    nodes = [helper.make_node("MatMul", ["x", "a"], ["h"]), helper.make_node("MatMul", ["h", "b"], ["y"])]
    constants = {"a": np.ones((4, 16), np.float32), "b": np.ones((16, 4), np.float32)}

    assert layers.activation_bytes(model_of(nodes, constants, [1, 4])) == 80
    assert layers.activation_bytes(model_of(nodes, constants, ["batch", 4])) == 80


def test_what_is_read_later_stays_alive() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Neg", ["a"], ["b"]),
        helper.make_node("Neg", ["b"], ["c"]),
        helper.make_node("Add", ["a", "c"], ["y"]),
    ]

    assert layers.activation_bytes(model_of(nodes, {}, [1, 4])) == 3 * 16


def test_activations_of_free_shapes_are_not_guessed() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"])]

    assert layers.activation_bytes(model_of(nodes, {}, [1, "length"])) is None


def test_activations_of_a_tflite_model(tmp_path: Path, weights: convertible.Weights) -> None:
    source = read_source(convertible.write_tflite(tmp_path / "m.tflite", weights))

    # convolved [1, 10, 10, 16] and pooled [1, 5, 5, 16]
    assert layers.activation_bytes(source) == 4 * (10 * 10 * 16 + 5 * 5 * 16)


def test_real_models_are_accounted_for() -> None:
    for path in (convertible.magika(), convertible.okay_nabu()):
        source = read_source(path)
        peak = layers.activation_bytes(source)

        assert 0.4 * source.size_bytes < layers.weight_bytes(source) < source.size_bytes
        assert peak is not None
        assert peak > 0


def test_versions_of_formats(tmp_path: Path, weights: convertible.Weights) -> None:
    onnx_source = read_source(convertible.write_onnx(tmp_path / "m.onnx", weights, opset=14))
    tflite_source = read_source(convertible.write_tflite(tmp_path / "m.tflite", weights))

    assert onnx_model.versions(onnx_source.parsed) == {"ir_version": 8, "opset ai.onnx": 14}
    assert tflite_model.versions(tflite_source.parsed) == {"schema": 3}


@pytest.mark.parametrize(
    ("kind", "bits"), [("FLOAT", 32), ("FLOAT16", 16), ("INT8", 8), ("UINT4", 4), ("BOOL", 8), ("STRING", None)]
)
def test_bits_of_onnx_datatypes(kind: str, bits: int | None) -> None:
    assert onnx_model.element_bits(TensorProto.DataType.Value(kind)) == bits
