from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from converters.formats.sizes import ActivationSize, LayerSize, activation_bytes, layer_sizes
from converters.formats.sources import read_source
from converters.quantize import onnx as quantize_onnx
from support import convertible

LAST = convertible.FILTERS * convertible.POOLED**2 * convertible.CLASSES
CONVOLVED = 10 * 10 * convertible.FILTERS


@pytest.fixture(scope="module")
def weights() -> convertible.Weights:
    return convertible.fitted()


def test_layers_of_onnx_largest_first(tmp_path: Path, weights) -> None:
    source = read_source(convertible.write_onnx(tmp_path / "m.onnx", weights))

    assert layer_sizes(source) == [
        LayerSize("scores", "Gemm", 4 * (LAST + convertible.CLASSES)),
        LayerSize("convolved", "Conv", 4 * convertible.FILTERS * 9),
    ]


@pytest.mark.parametrize("half", [False, True])
def test_layers_of_tflite_with_weights_behind_dequantize(tmp_path: Path, weights, half: bool) -> None:
    source = read_source(convertible.write_tflite(tmp_path / "m.tflite", weights, half=half))

    width = 2 if half else 4
    assert layer_sizes(source) == [
        LayerSize("scores", "FULLY_CONNECTED", width * (LAST + convertible.CLASSES)),
        LayerSize("convolved", "CONV_2D", width * convertible.FILTERS * 10),
    ]


def test_quantized_weights_belong_to_the_layer_behind_their_dequantize(tmp_path: Path, weights) -> None:
    path = convertible.write_onnx(tmp_path / "m.onnx", weights)
    samples = [{"image": image[None, None]} for image in convertible.images(8).pixels]
    target = tmp_path / "q.onnx"
    quantize_onnx.quantize_static(path, target, samples, signed_activations=True)

    first, *_ = layer_sizes(read_source(target))

    assert first.operator == "Gemm"
    assert LAST <= first.weight_bytes < 1.1 * LAST


def test_activations_at_the_busiest_operator(tmp_path: Path, weights) -> None:
    image, scores, pooled = 144, convertible.CLASSES, convertible.FILTERS * convertible.POOLED**2

    onnx = activation_bytes(read_source(convertible.write_onnx(tmp_path / "m.onnx", weights)))
    tflite = activation_bytes(read_source(convertible.write_tflite(tmp_path / "m.tflite", weights)))

    # In ONNX the ReLU is a node of its own.
    assert onnx == ActivationSize(4 * (image + scores + 2 * CONVOLVED), 0)
    assert tflite == ActivationSize(4 * (image + scores + CONVOLVED + pooled), 0)


def test_shapes_that_are_not_known_are_counted(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("NonZero", ["image"], ["places"]),
        helper.make_node("Cast", ["places"], ["scores"], to=1),
    ]
    source = read_source(convertible.save_onnx(tmp_path / "m.onnx", nodes, {}, [2, 2], [2, "n"]))

    assert activation_bytes(source).peak_bytes >= 4 * 4


def test_real_models() -> None:
    for path in (convertible.magika(), convertible.okay_nabu()):
        source = read_source(path)
        total = sum(layer.weight_bytes for layer in layer_sizes(source))
        assert 0.4 * source.size_bytes < total <= source.size_bytes
        assert 0 < activation_bytes(source).peak_bytes < 100 * source.size_bytes
    assert np.isfinite(total)
