"""Both formats answer as Keras does, under the same names in the same order."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from converters.errors import ConversionError
from converters.formats import tflite_model
from converters.frameworks import keras, tf_keras
from converters.frameworks.base import Framework
from converters.frameworks.silence import silenced
from edge_agent.documents.settings import EngineSettings
from edge_agent.engines.base import Engine
from edge_agent.engines.onnx import OnnxEngine
from edge_agent.engines.tflite import TfliteEngine
from support.keras_zoo import ZOO, made

FRAMEWORKS: dict[str, Any] = {"keras": keras, "tf-keras": tf_keras}
PORTS = {
    "cnn": (["image"], ["digit"]),
    "several": (["zebra", "ant"], ["species", "age"]),
    "by_name": (["ant", "zebra"], ["out"]),
    "conv1d": (["imu"], ["activity"]),
    "lstm": (["imu"], ["activity"]),
    "gru": (["imu"], ["activity"]),
    "attention": (["ids"], ["topic"]),
    "residual": (["image"], ["digit"]),
}


def inputs_of(engine: Engine, batch: int) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    return {
        spec.name: rng.integers(0, 20, (batch, *spec.shape[1:])).astype(np.int32)
        if spec.datatype == "INT32"
        else rng.normal(size=(batch, *spec.shape[1:])).astype(np.float32)
        for spec in engine.inputs
    }


def exported(module: Framework, model: Any, folder: Path) -> tuple[OnnxEngine, TfliteEngine]:
    module.export(model, "onnx", folder / "model.onnx", {})
    module.export(model, "tflite", folder / "model.tflite", {})
    settings = EngineSettings(tflite_runtime="ai-edge-litert")
    return (
        OnnxEngine.load(folder / "model.onnx", settings),
        TfliteEngine.load(folder / "model.tflite", settings),
    )


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("name", ZOO)
def test_both_formats_answer_as_keras_does(framework: str, name: str, tmp_path: Path) -> None:
    module = FRAMEWORKS[framework]
    model = made(module.library(), name)

    by_onnx, by_tflite = exported(module, model, tmp_path)

    names, outputs = PORTS[name]
    assert list(module.input_names(model)) == names
    for engine in (by_onnx, by_tflite):
        assert [spec.name for spec in engine.inputs] == names
        assert [spec.name for spec in engine.outputs] == outputs
    assert {spec.shape[0] for spec in by_onnx.inputs + by_onnx.outputs} == {-1}
    assert {spec.shape[0] for spec in by_tflite.inputs + by_tflite.outputs} == {1}
    pairs = zip(by_onnx.inputs + by_onnx.outputs, by_tflite.inputs + by_tflite.outputs, strict=True)
    assert all((a.datatype, a.shape[1:]) == (b.datatype, b.shape[1:]) for a, b in pairs)

    samples = inputs_of(by_onnx, 3)
    given = samples if name == "by_name" else [samples[one] for one in names]
    with silenced():
        wanted = model.predict(given if len(names) > 1 else samples[names[0]], verbose=0)
    wanted = dict(zip(outputs, wanted if isinstance(wanted, list) else [wanted], strict=True))
    answers = by_onnx.run(samples)
    single = by_tflite.run({one: array[:1] for one, array in samples.items()})
    for output in outputs:
        assert np.ptp(wanted[output]) > 1e-4
        np.testing.assert_allclose(answers[output], wanted[output], atol=1e-5)
        np.testing.assert_allclose(single[output], wanted[output][:1], atol=1e-5)


def test_onnx_and_tflite_files_are_plain(keras3: Any, tmp_path: Path) -> None:
    exported(keras, made(keras3, "cnn"), tmp_path)

    proto = onnx.load(tmp_path / "model.onnx")
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 18)]
    assert proto.graph.doc_string == ""
    assert any(node.name.endswith("digit_1/MatMul") for node in proto.graph.node)
    flat = tflite_model.read(tmp_path / "model.tflite")
    assert not tflite_model.operators(flat).keys() & {"VAR_HANDLE", "READ_VARIABLE", "SHAPE"}
    assert tflite_model.operators(flat)["CONV_2D"] == 1
    assert tflite_model.signature_key(flat) == "serving_default"
    assert tflite_model.signature_inputs(flat) == {"image": "image"}
    names = [tensor.name for tensor in flat.subgraphs[0].tensors]
    assert len(set(names)) == len(names)
    assert not any(b"StatefulPartitionedCall" in name or b":0" in name for name in names)


def test_an_export_leaves_no_file_beside_its_target(keras3: Any, tmp_path: Path) -> None:
    exported(keras, made(keras3, "conv1d"), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.tflite"]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_mixed_precision_becomes_float32(framework: str, tmp_path: Path) -> None:
    library = FRAMEWORKS[framework].library()
    layers = library.layers
    with silenced():
        library.mixed_precision.set_global_policy("mixed_float16")
        try:
            nested = library.Sequential([layers.Input((4, 4, 2)), layers.Conv2D(4, 3, name="inner")])
            model = library.Sequential(
                [
                    layers.Input((4, 4, 2), name="image"),
                    nested,
                    layers.Flatten(),
                    layers.Dense(2, dtype="float32", name="out"),
                ]
            )
        finally:
            library.mixed_precision.set_global_policy("float32")

    by_onnx, by_tflite = exported(FRAMEWORKS[framework], model, tmp_path)

    nodes = onnx.load(tmp_path / "model.onnx").graph.node
    halves = [
        node
        for node in nodes
        for one in node.attribute
        if one.name == "to" and one.i == onnx.TensorProto.FLOAT16
    ]
    assert not halves
    samples = inputs_of(by_tflite, 1)
    np.testing.assert_allclose(by_onnx.run(samples)["out"], by_tflite.run(samples)["out"], atol=1e-6)
    np.testing.assert_allclose(by_onnx.run(samples)["out"], np.asarray(model(samples["image"])), atol=5e-3)
    assert model.layers[0].compute_dtype == "float16"


@pytest.mark.parametrize("target", ["onnx", "tflite"])
def test_an_unsupported_operator_is_named(keras3: Any, target: Any, tmp_path: Path) -> None:
    import tensorflow as tf

    class Odd(keras3.layers.Layer):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            return tf.linalg.cholesky(tf.matmul(x, x, transpose_b=True))

    model = keras3.Sequential([keras3.layers.Input((3, 4), name="x"), Odd()])
    with pytest.raises(ConversionError, match="no built-in counterpart of the operator Cholesky; replace"):
        keras.export(model, target, tmp_path / "model", {})
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_refused(keras3: Any, tmp_path: Path) -> None:
    layers = keras3.layers

    class Sub(keras3.Model):  # type: ignore[misc]
        pass

    text = keras3.Sequential(
        [layers.Input((), dtype="string", name="words"), layers.StringLookup(vocabulary=["a"])]
    )
    stateful = keras3.Sequential(
        [layers.Input((5, 4), batch_size=1), layers.LSTM(3, stateful=True, name="memory")]
    )
    same = layers.Input((4,), name="same")
    through = keras3.Model(same, [layers.Dense(2, name="out")(same), same])
    refused = {
        "is a subclass": Sub(),
        "Input 'words' takes string": text,
        "Layer 'memory' keeps its state": stateful,
        "Output 'same_1' is an input": through,
    }
    for message, model in refused.items():
        with pytest.raises(ConversionError, match=message):
            keras.export(model, "tflite", tmp_path / "model", {})
    assert list(tmp_path.iterdir()) == []


def test_outputs_that_share_a_layer_get_names_of_their_own(legacy: Any, tmp_path: Path) -> None:
    value = legacy.layers.Input((4,), name="value")
    layer = legacy.layers.Dense(2, name="dense")
    model = legacy.Model(value, [layer(value), layer(value * 2.0)])
    by_onnx, by_tflite = exported(tf_keras, model, tmp_path)
    assert [spec.name for spec in by_onnx.outputs] == [spec.name for spec in by_tflite.outputs]
    assert len({spec.name for spec in by_onnx.outputs}) == 2
    samples = inputs_of(by_tflite, 1)
    for name, answer in by_onnx.run(samples).items():
        np.testing.assert_allclose(answer, by_tflite.run(samples)[name], atol=1e-6)
