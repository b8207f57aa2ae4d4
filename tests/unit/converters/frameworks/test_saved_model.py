from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.errors import ConversionError
from converters.frameworks import saved_model
from converters.frameworks.base import Training
from converters.frameworks.silence import silenced
from converters.prune.settings import PruneSettings
from converters.terms import Origin
from edge_agent.documents.errors import ModelError
from edge_agent.documents.settings import EngineSettings
from edge_agent.engines.onnx import OnnxEngine
from edge_agent.engines.tflite import TfliteEngine
from support.keras_zoo import made

LITERT = EngineSettings(tflite_runtime="ai-edge-litert")


def at(folder: Path) -> Origin:
    return Origin("saved-model", str(folder))


@pytest.fixture(scope="module")
def folder(keras3: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "model"
    with silenced():
        made(keras3, "several").export(path, verbose=False)
    return path


def test_both_formats_take_the_signatures_names(keras3: Any, folder: Path, tmp_path: Path) -> None:
    model = made(keras3, "several")
    loaded = saved_model.load(at(folder))
    saved_model.export(loaded, "onnx", tmp_path / "m.onnx", {})
    saved_model.export(loaded, "tflite", tmp_path / "m.tflite", {})
    engines = OnnxEngine.load(tmp_path / "m.onnx", LITERT), TfliteEngine.load(tmp_path / "m.tflite", LITERT)

    rng = np.random.default_rng(1)
    samples = {
        name: rng.normal(size=(1, size)).astype(np.float32) for name, size in (("ant", 5), ("zebra", 12))
    }
    species, age = model.predict([samples["zebra"], samples["ant"]], verbose=0)
    assert saved_model.input_names(loaded) == ("ant", "zebra")
    for engine in engines:
        assert [spec.name for spec in engine.inputs] == ["ant", "zebra"]
        assert [spec.name for spec in engine.outputs] == ["output_0", "output_1"]
        answers = engine.run(samples)
        np.testing.assert_allclose(answers["output_0"], species, atol=1e-6)
        np.testing.assert_allclose(answers["output_1"], age, atol=1e-6)


def test_a_model_of_tensorflow_alone_is_exported(tmp_path: Path) -> None:
    import tensorflow as tf

    module = tf.Module()
    module.scale = tf.Variable([2.0, 3.0])
    spec = tf.TensorSpec([None, 2], tf.float32, name="pair")
    module.serve = tf.function(lambda pair: {"scaled": pair * module.scale}, input_signature=[spec])
    with silenced():
        tf.saved_model.save(module, str(tmp_path / "model"), signatures={"only": module.serve})
    loaded = saved_model.load(at(tmp_path / "model"))
    saved_model.export(loaded, "onnx", tmp_path / "m.onnx", {})
    engine = OnnxEngine.load(tmp_path / "m.onnx", LITERT)
    answer = engine.run({"pair": np.ones((3, 2), np.float32)})
    assert answer["scaled"].tolist() == [[2.0, 3.0]] * 3


def test_several_signatures_without_the_usual_one_are_refused(tmp_path: Path) -> None:
    import tensorflow as tf

    module = tf.Module()
    spec = tf.TensorSpec([None, 2], tf.float32)
    module.serve = tf.function(lambda pair: {"same": pair + 1.0}, input_signature=[spec])
    with silenced():
        signatures = {"one": module.serve, "two": module.serve}
        tf.saved_model.save(module, str(tmp_path / "model"), signatures=signatures)
    with pytest.raises(ConversionError, match=r"no signature 'serving_default' \(its signatures: one, two\)"):
        saved_model.load(at(tmp_path / "model"))


def test_a_recurrent_layer_of_a_free_batch_names_the_way_round(keras3: Any, tmp_path: Path) -> None:
    with silenced():
        made(keras3, "lstm").export(tmp_path / "model", verbose=False)
    loaded = saved_model.load(at(tmp_path / "model"))
    with pytest.raises(ConversionError, match=r"recurrent layer .* start from the \.keras or \.h5 file"):
        saved_model.export(loaded, "tflite", tmp_path / "m.tflite", {})


def test_what_is_no_saved_model_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"is not a TensorFlow SavedModel: it has no saved_model\.pb"):
        saved_model.load(at(tmp_path))
    (tmp_path / "saved_model.pb").write_bytes((folder / "saved_model.pb").read_bytes()[:200])
    with pytest.raises(
        ModelError, match=r"TensorFlow cannot load .*; give a complete SavedModel folder"
    ) as caught:
        saved_model.load(at(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_saved_model_cannot_be_pruned(folder: Path) -> None:
    training = Training({}, np.zeros(1))
    with pytest.raises(ConversionError, match=r"start from the \.keras or \.h5 file"):
        saved_model.prune(saved_model.load(at(folder)), training, PruneSettings(), lambda share: None)
