from pathlib import Path

import numpy as np

from converters.conversion.recipe import read_recipe
from converters.processing import onnx as to_onnx
from converters.processing import tflite as to_tflite
from edge_agent.documents.settings import EngineSettings
from edge_agent.engines.onnx import OnnxEngine
from edge_agent.engines.tflite import TfliteEngine
from support import processable


def test_sounds_are_named(tmp_path: Path) -> None:
    processable.sounds.main(tmp_path)
    recipe = read_recipe(processable.EXAMPLES / "audio.toml")
    target = tmp_path / "processed.onnx"

    assert isinstance(recipe.labels, tuple)
    to_onnx.add_processing(
        tmp_path / Path(recipe.model).name, target, recipe.preprocess, recipe.postprocess, recipe.labels
    )

    engine = OnnxEngine.load(target, EngineSettings())
    with np.load(tmp_path / Path(recipe.data.path).name) as data:
        answer = engine.run({"sound": data["sound"]})
        named = [recipe.labels[kind].encode() for kind in data["y"]]
    np.testing.assert_allclose(answer["scores"].sum(axis=1), 1, atol=1e-5)
    assert (answer["label"] == np.array(named, np.object_)).mean() > 0.95


def test_face_detector_gets_pixels_from_minus_one_to_one(tmp_path: Path) -> None:
    recipe = read_recipe(processable.EXAMPLES / "image.toml")
    # The detector itself has to be fetched; this shows what it would be given.
    source = processable.tflite_mirror(tmp_path / "m.tflite", (1, 128, 128, 3))

    to_tflite.add_processing(source, tmp_path / "p.tflite", recipe.preprocess, recipe.postprocess, ())

    engine = TfliteEngine.load(tmp_path / "p.tflite", EngineSettings())
    pixels = np.linspace(0, 255, 128 * 128 * 3).round().astype(np.uint8).reshape(1, 128, 128, 3)
    np.testing.assert_allclose(engine.run({"given": pixels})["seen"], pixels / 127.5 - 1, atol=1e-5)
    assert engine.run({"given": pixels[:, :50, :99]})["seen"].shape == (1, 128, 128, 3)
