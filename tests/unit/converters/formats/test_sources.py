from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from converters.formats import onnx_model, tflite_model
from converters.formats.sources import read_source
from edge_agent.documents.errors import ModelError
from edge_agent.documents.settings import EngineSettings
from edge_agent.engines.tflite import TfliteEngine
from support import convertible

LITERT = EngineSettings(tflite_runtime="ai-edge-litert")


@pytest.fixture(scope="module")
def weights() -> convertible.Weights:
    return convertible.fitted()


def scores(path: Path) -> np.ndarray:
    drawn = convertible.images(3)
    engine = TfliteEngine.load(path, LITERT)
    return np.concatenate([engine.run({"image": one[None, :, :, None]})["scores"] for one in drawn.pixels])


def test_formats_are_told_apart_by_content(tmp_path: Path, weights: convertible.Weights) -> None:
    onnx = read_source(convertible.write_onnx(tmp_path / "a.bin", weights))
    tflite = read_source(convertible.write_tflite(tmp_path / "b.bin", weights))

    assert (onnx.engine, onnx.precision, onnx.operators["Conv"]) == ("onnx", "fp32", 1)
    assert (tflite.engine, tflite.precision, tflite.operators["CONV_2D"]) == ("tflite", "fp32", 1)


def test_precision_of_real_models() -> None:
    assert read_source(convertible.magika()).precision == "fp32"
    assert read_source(convertible.okay_nabu()).precision == "int8"
    assert read_source(convertible.okay_nabu()).is_quantized


def test_half_weights_in_the_old_form_are_seen(tmp_path: Path, weights: convertible.Weights) -> None:
    source = read_source(convertible.write_tflite(tmp_path / "m.tflite", weights, half=True, old=True))

    assert source.precision == "fp16"
    assert source.operators["DEQUANTIZE"] == 4


def test_normal_form_answers_the_same(tmp_path: Path, weights: convertible.Weights) -> None:
    path = convertible.write_tflite(tmp_path / "m.tflite", weights, half=True, old=True)

    plain = tmp_path / "plain.tflite"
    plain.write_bytes(tflite_model.normalised(tflite_model.read(path)))

    model = tflite_model.read(plain)
    assert "DEQUANTIZE" not in tflite_model.operators(model)
    assert tflite_model.precision(model) == "fp32"
    assert tflite_model.signature_inputs(model) == {"image": "image"}
    np.testing.assert_allclose(scores(plain), scores(path), atol=1e-5)


def test_outputs_are_renamed_without_changing_answers(tmp_path: Path, weights: convertible.Weights) -> None:
    path = convertible.write_tflite(tmp_path / "m.tflite", weights)

    source = tflite_model.read(path)
    output = source.subgraphs[0].tensors[source.subgraphs[0].outputs[0]]
    output.name, output.shapeSignature = b"probabilities", [-1, 4]

    renamed = tmp_path / "renamed.tflite"
    renamed.write_bytes(tflite_model.with_outputs_of(path.read_bytes(), source))

    (spec,) = TfliteEngine.load(renamed, LITERT).outputs
    assert (spec.name, spec.shape) == ("probabilities", (-1, 4))


def test_old_opset_is_upgraded(tmp_path: Path, weights: convertible.Weights) -> None:
    model = onnx_model.read(convertible.write_onnx(tmp_path / "m.onnx", weights, opset=11))

    assert onnx_model.opset(model) == 11
    assert onnx_model.opset(onnx_model.upgraded(model)) == onnx_model.MIN_OPSET


def test_weights_that_dynamic_quantization_reaches(tmp_path: Path, weights: convertible.Weights) -> None:
    cnn = onnx_model.read(convertible.write_onnx(tmp_path / "m.onnx", weights))
    product = helper.make_node("MatMul", ["image", "image"], ["scores"])
    free = onnx_model.read(convertible.save_onnx(tmp_path / "f.onnx", [product], {}, [4, 4], [4, 4]))

    assert onnx_model.quantizable_weights(cnn) == 1
    assert onnx_model.quantizable_weights(free) == 0


def test_invalid_graph_is_named(tmp_path: Path) -> None:
    node = helper.make_node("NoSuchOperator", ["image"], ["scores"])
    path = convertible.save_onnx(tmp_path / "m.onnx", [node], {}, [1, 4], [1, 4])

    with pytest.raises(ModelError, match="NoSuchOperator"):
        read_source(path)
