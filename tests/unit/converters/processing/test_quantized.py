"""Quantizers can leave the processing in float: by the names of nodes, and of the tensors they give."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema

from converters.formats import tflite_model
from converters.processing import onnx as to_onnx
from converters.processing import tflite as to_tflite
from converters.processing.settings import (
    AudioSettings,
    ImageSettings,
    PostprocessSettings,
    PreprocessSettings,
)
from converters.quantize.layers import PROCESSING
from edge_agent.documents.settings import EngineSettings
from edge_agent.engines.base import Engine
from edge_agent.engines.onnx import OnnxEngine
from edge_agent.engines.tflite import TfliteEngine
from support import convertible, processable

SOUNDS = processable.sounds
HEARING = PreprocessSettings(
    audio=AudioSettings(features="log-mel", mel_bins=SOUNDS.BANDS, samples=SOUNDS.SAMPLES)
)
SEEING = PreprocessSettings(image=ImageSettings(channels="gray"))
POST = PostprocessSettings(softmax=True, argmax=True)
Samples = list[dict[str, Any]]


def heard() -> Samples:
    return [{"sound": one[None]} for one in SOUNDS.sounds(48, seed=4)[0]]


def seen() -> Samples:
    return [
        {"image": (one * 255).astype(np.uint8)[None, :, :, None]}
        for one in convertible.images(48, seed=4).pixels
    ]


def quantize_onnx(source: Path, target: Path, samples: Samples) -> None:
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(samples)

        def get_next(self) -> dict[str, Any] | None:
            return next(self._left, None)

    quantization.quantize_static(
        str(source),
        str(target),
        Reader(),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        nodes_to_exclude=[
            node.name for node in onnx.load(source).graph.node if node.name.startswith(PROCESSING)
        ],
    )


def quantize_tflite(source: Path, target: Path, samples: Samples) -> None:
    from litert_quantizer import qtyping, quantizer, recipe, recipe_manager

    manager = recipe_manager.RecipeManager()
    manager.load_quantization_recipe(recipe.static_wi8_ai8())
    names = qtyping.TFLOperationName
    for scope, operator in (
        (".*", names.INPUT),
        (".*", names.OUTPUT),
        (f"^({'|'.join(PROCESSING)})", names.ALL_SUPPORTED),
    ):
        manager.add_quantization_config(scope, operator, algorithm_key=quantizer.AlgorithmName.NO_QUANTIZE)
    content = tflite_model.normalised(tflite_model.read(source))
    worker = quantizer.Quantizer(content, manager.get_quantization_recipe())
    calibration = worker.calibrate({"serving_default": samples}, num_threads=1)
    result = worker.quantize(calibration, enable_progress_bar=False, enable_progress_report=False)
    target.write_bytes(bytes(result.quantized_model))


def agreement(plain: Engine, quantized: Engine, samples: Samples) -> float:
    pairs = [(plain.run(sample), quantized.run(sample)) for sample in samples]
    for one, other in pairs:
        assert np.abs(one["scores"] - other["scores"]).max() < 0.25
    return float(np.mean([one["class"] == other["class"] for one, other in pairs]))


@pytest.mark.parametrize("pre", [HEARING, SEEING], ids=["sound", "image"])
def test_onnx(tmp_path: Path, pre: PreprocessSettings) -> None:
    is_sound = pre is HEARING
    source = (
        SOUNDS.write_onnx(tmp_path / "m.onnx", SOUNDS.fitted())
        if is_sound
        else convertible.write_onnx(tmp_path / "m.onnx", convertible.fitted())
    )
    plain, quantized = tmp_path / "plain.onnx", tmp_path / "int8.onnx"
    to_onnx.add_processing(source, plain, pre, POST, ())

    quantize_onnx(plain, quantized, heard() if is_sound else seen())

    model = onnx.load(quantized)
    produced = {name: node for node in model.graph.node for name in node.output}
    kinds = [node.op_type for node in model.graph.node if node.name.startswith(PROCESSING)]
    assert "DequantizeLinear" in {node.op_type for node in model.graph.node}
    assert kinds[0] == "Cast"
    assert kinds[-2:] == ["Softmax", "ArgMax"]
    for node in model.graph.node:
        if node.name.startswith("preprocess/") and node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            assert all(produced[name].op_type != "DequantizeLinear" for name in node.input if name in produced)
    engines = [OnnxEngine.load(path, EngineSettings()) for path in (plain, quantized)]
    assert agreement(engines[0], engines[1], heard() if is_sound else seen()) == 1


@pytest.mark.filterwarnings("ignore:.*experimental_preserve_all_tensors")
@pytest.mark.parametrize("pre", [HEARING, SEEING], ids=["sound", "image"])
def test_tflite(tmp_path: Path, pre: PreprocessSettings) -> None:
    is_sound = pre is HEARING
    source = (
        processable.tflite_ears(tmp_path / "m.tflite")
        if is_sound
        else convertible.write_tflite(tmp_path / "m.tflite", convertible.fitted())
    )
    plain, quantized = tmp_path / "plain.tflite", tmp_path / "int8.tflite"
    to_tflite.add_processing(source, plain, pre, POST, ())

    quantize_tflite(plain, quantized, heard() if is_sound else seen())

    model = tflite_model.read(quantized)
    graph = model.subgraphs[0]
    types = {bytes(tensor.name).decode(): tensor.type for tensor in graph.tensors}
    floats = {name for name, kind in types.items() if kind == schema.TensorType.FLOAT32}
    convolution = "preprocess/audio/fourier" if is_sound else "preprocess/image/multiply"
    assert {convolution, "postprocess/softmax", "scores"} <= floats
    assert types["convolved"] == types["model/scores"] == schema.TensorType.INT8
    assert tflite_model.output_names(model) == ["scores", "class"]
    engines = [TfliteEngine.load(path, EngineSettings(threads=1)) for path in (plain, quantized)]
    assert agreement(engines[0], engines[1], heard() if is_sound else seen()) == 1
