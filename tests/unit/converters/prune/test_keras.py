"""Pruning of Keras 3 and legacy Keras models, on scikit-learn's digits."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from sklearn.datasets import load_digits

from converters.errors import ConversionError, DataError
from converters.formats import tflite_model
from converters.frameworks import keras, tf_keras
from converters.frameworks.base import Training
from converters.prune import keras_channels
from converters.prune.settings import PruneSettings
from edge_agent.documents.errors import RequestError
from support.keras_zoo import made

FRAMEWORKS: dict[str, Any] = {"keras": keras, "tf-keras": tf_keras}
KERNELS = {"conv": 72, "hidden": 2304, "digit": 160}
QUICK = PruneSettings(final_sparsity=0.8, end_step=25, frequency=10, steps=40)


@pytest.fixture(scope="module")
def digits() -> Training:
    found = load_digits()
    images = (found.images[:600] / 16).astype(np.float32)[..., None]
    return Training({"image": images}, found.target[:600])


def zeros(kernel: np.ndarray) -> float:
    return float((kernel == 0).mean())


def kernel_of(model: Any, name: str) -> np.ndarray:
    kernel: np.ndarray = model.get_layer(name).get_weights()[0]
    return kernel


def biggest(arrays: list[np.ndarray]) -> np.ndarray:
    return max(arrays, key=lambda array: array.size)


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("method", ["magnitude", "channels"])
def test_an_input_without_a_name_keeps_the_one_that_it_got(
    framework: str, method: Any, digits: Training
) -> None:
    module = FRAMEWORKS[framework]
    layers = module.library().layers
    model = module.library().Sequential(
        [
            layers.Input((8, 8, 1)),
            *(layers.Conv2D(8, 3, activation="relu"), layers.Flatten(), layers.Dense(10)),
        ]
    )
    names = module.input_names(model)
    training = Training({names[0]: digits.inputs["image"]}, digits.targets)

    pruned = module.prune(
        model, training, PruneSettings(method, end_step=2, frequency=1, steps=3), lambda _: None
    )

    assert module.input_names(pruned.model) == names


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_magnitude_pruning_leaves_exact_zeros_also_in_files(
    framework: str, digits: Training, tmp_path: Path
) -> None:
    module = FRAMEWORKS[framework]
    model = made(module.library(), "cnn")
    before = [weights.copy() for weights in model.get_weights()]
    heard: list[float] = []

    pruned = module.prune(model, digits, QUICK, heard.append)

    assert pruned.layers.keys() == KERNELS.keys()
    for name, size in KERNELS.items():
        kernel = kernel_of(pruned.model, name)
        assert kernel.size == size
        assert zeros(kernel) == pruned.layers[name] == pytest.approx(0.8, abs=0.5 / size)
    assert pruned.sparsity == pytest.approx(0.8, abs=1e-3)
    assert zeros(kernel_of(pruned.model, "depthwise")) == 0
    assert all(np.array_equal(one, other) for one, other in zip(before, model.get_weights(), strict=True))
    assert heard == sorted(heard)
    assert heard[-1] == 1.0
    assert [layer.name for layer in pruned.model.layers] == [layer.name for layer in model.layers]

    module.export(pruned.model, "onnx", tmp_path / "m.onnx", {})
    module.export(pruned.model, "tflite", tmp_path / "m.tflite", {})
    proto = onnx.load(tmp_path / "m.onnx")
    assert (
        zeros(biggest([numpy_helper.to_array(one) for one in proto.graph.initializer]))
        == pruned.layers["hidden"]
    )
    flat = tflite_model.read(tmp_path / "m.tflite")
    data = [
        np.asarray(one.data, np.uint8)
        for one in flat.buffers
        if one.data is not None and len(one.data) % 4 == 0
    ]
    assert zeros(biggest(data).view(np.float32)) == pruned.layers["hidden"]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_fine_tuning_learns_and_excluded_layers_stay_whole(framework: str, digits: Training) -> None:
    module = FRAMEWORKS[framework]
    model = made(module.library(), "cnn")
    settings = PruneSettings(
        final_sparsity=0.5, end_step=30, frequency=15, steps=45, learning_rate=1e-2, exclude=("con*", "digit")
    )
    pruned = module.prune(model, digits, settings, lambda share: None)
    assert pruned.layers.keys() == {"hidden"}
    assert zeros(kernel_of(pruned.model, "conv")) == zeros(kernel_of(pruned.model, "digit")) == 0
    guessed = pruned.model.predict(digits.inputs["image"], verbose=0).argmax(axis=1)
    assert (guessed == digits.targets).mean() > 0.3


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_channel_pruning_shrinks_the_graph_and_the_files(
    framework: str, digits: Training, tmp_path: Path
) -> None:
    module = FRAMEWORKS[framework]
    model = made(module.library(), "cnn")
    settings = PruneSettings(method="channels", end_step=10)
    pruned = module.prune(model, digits, settings, lambda share: None)

    assert pruned.layers == {"conv": 0.5, "hidden": 0.5}
    assert pruned.sparsity == 0.5
    shapes = [weights.shape for weights in pruned.model.get_weights()]
    # Convolution, four of the normalisation, depthwise with two each, hidden layer of 3x3 places, output.
    assert shapes == [
        (3, 3, 1, 4), (4,), (4,), (4,), (4,), (4,), (3, 3, 4, 2), (8,), (72, 8), (8,), (8, 10), (10,),
    ]  # fmt: skip
    for target in ("onnx", "tflite"):
        module.export(model, target, tmp_path / "whole", {})
        module.export(pruned.model, target, tmp_path / "small", {})
        assert (tmp_path / "small").stat().st_size < 0.75 * (tmp_path / "whole").stat().st_size


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("name", ["cnn", "conv1d", "residual"])
def test_a_shrunk_model_answers_as_one_with_those_channels_at_zero(framework: str, name: str) -> None:
    library = FRAMEWORKS[framework].library()
    model = made(library, name)
    settings = PruneSettings(method="channels", final_sparsity=0.5)
    shrunk = keras_channels.shrunk(library, model, settings)
    assert any(shrunk.layers.values())
    for layer_name, share in shrunk.layers.items():
        if share:
            silence(model, layer_name, kernel_of(shrunk.model, layer_name).shape[-1])
    value = np.random.default_rng(2).normal(size=(3, *model.inputs[0].shape[1:])).astype(np.float32)
    answers = shrunk.model.predict(value, verbose=0)
    assert np.ptp(answers) > 1e-3
    np.testing.assert_allclose(answers, model.predict(value, verbose=0), atol=1e-5)


def silence(model: Any, name: str, keep: int) -> None:
    """Cut the weakest channels of a layer off from what comes after, by zeros in what takes them."""
    kernel = kernel_of(model, name)
    sums = np.abs(kernel).reshape(-1, kernel.shape[-1]).sum(axis=0)
    gone = np.sort(np.argsort(-sums, kind="stable")[keep:])
    names = [layer.name for layer in model.layers]
    follower = next(
        layer for layer in model.layers[names.index(name) + 1 :] if layer.get_weights() and layer.name != "norm"
    )
    taken, *others = follower.get_weights()
    if follower.name == "depthwise":
        taken[:, :, gone, :] = 0
        # Its bias, two values for each channel, goes on to the hidden layer.
        others[0].reshape(-1, 2)[gone] = 0
    elif taken.shape[-2] != kernel.shape[-1]:
        taken.reshape(-1, kernel.shape[-1], taken.shape[-1])[:, gone] = 0
    else:
        taken[..., gone, :] = 0
    follower.set_weights([taken, *others])


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_channels_that_reach_a_merge_are_left_whole(framework: str) -> None:
    library = FRAMEWORKS[framework].library()
    model = made(library, "residual")
    shrunk = keras_channels.shrunk(library, model, PruneSettings(method="channels", final_sparsity=0.5))
    assert shrunk.layers == {"first": 0.0, "inner": 0.5, "second": 0.0, "hidden": 0.5}
    assert shrunk.sparsity == pytest.approx(7 / 22)
    assert shrunk.model.output_shape == (None, 10)


def test_what_has_no_channel_to_spare_is_refused(keras3: Any, digits: Training) -> None:
    settings = PruneSettings(method="channels")
    layers = keras3.layers
    model = keras3.Sequential([layers.Input((8, 8, 1)), layers.Flatten(), layers.Dense(10)])
    with pytest.raises(ConversionError, match=r"No layer's channels can be removed.*method = 'magnitude'"):
        keras_channels.shrunk(keras3, model, settings)
    bare = keras3.Sequential([layers.Input((8, 8, 1), name="image"), layers.Flatten()])
    with pytest.raises(ConversionError, match="no Dense or Conv layer to prune"):
        keras.prune(bare, digits, QUICK, lambda share: None)


def test_samples_that_do_not_fit_are_refused(keras3: Any, digits: Training) -> None:
    model = made(keras3, "cnn")
    images, targets = digits.inputs["image"], digits.targets
    refused = {
        "no array for the input 'image'": Training({"picture": images}, targets),
        r"has the shape \(600, 8, 8\), but the model takes \(n, 8, 8, 1\)": Training(
            {"image": images[..., 0]}, targets
        ),
        "differ in number or are empty": Training({"image": images}, targets[:-1]),
        "class numbers go from 1 to 10, but the model has 10 classes": Training({"image": images}, targets + 1),
        r"targets have the shape \(600,\), which does not fit": Training({"image": images}, targets * 0.5),
    }
    for message, training in refused.items():
        with pytest.raises(DataError, match=message):
            keras.prune(model, training, QUICK, lambda share: None)


@pytest.mark.parametrize("targets", [[0, 1, 2, 1], [-1, 1, -1, 1]])
def test_integers_for_one_output_are_two_classes(keras3: Any, targets: list[int]) -> None:
    layers = keras3.layers
    model = keras3.Sequential([layers.Input((3,), name="x"), layers.Dense(1)])
    training = Training({"x": np.zeros((4, 3), np.float32)}, np.array(targets))
    with pytest.raises(DataError, match=r"but the model has 2 classes; .* or floats for a regression"):
        keras.prune(model, training, QUICK, lambda share: None)


def test_settings_that_cannot_work_are_refused(keras3: Any, digits: Training) -> None:
    model = made(keras3, "cnn")
    refused = {
        "prune.initial_sparsity is 0.6 and prune.final_sparsity 0.5": PruneSettings(initial_sparsity=0.6),
        "prune.begin_step is 50 and prune.end_step 50": PruneSettings(begin_step=50, end_step=50),
        "prune.exclude has 'dens*', which no layer is named": PruneSettings(exclude=("dens*",)),
        "Cannot import no.such for no.such:loss": PruneSettings(loss="no.such:loss"),
        "prune.loss is 'mse'; give auto or package.module:function": PruneSettings(loss="mse"),
    }
    for message, settings in refused.items():
        with pytest.raises(RequestError, match=re.escape(message)):
            keras.prune(model, digits, settings, lambda share: None)


@pytest.mark.parametrize(
    ("framework", "kind"),
    [
        ("keras", "binary"),
        ("keras", "several labels"),
        ("keras", "one of many"),
        ("keras", "values"),
        ("keras", "own loss"),
        ("tf-keras", "several labels"),
    ],
)
def test_each_kind_of_target_has_its_loss(framework: str, kind: str) -> None:
    """The loss that is chosen lets the model learn what is easily told."""
    module = FRAMEWORKS[framework]
    library = module.library()
    rng = np.random.default_rng(5)
    value = rng.normal(size=(256, 4)).astype(np.float32)
    signs = (value[:, :2] > 0).astype(np.int64)
    units, activation, targets = {
        "binary": (1, None, signs[:, 0]),
        "several labels": (2, "sigmoid", signs),
        "one of many": (2, "softmax", np.eye(2, dtype=np.int64)[signs[:, 0]]),
        "values": (1, None, 2 * value[:, 0]),
        "own loss": (2, None, value[:, :2]),
    }[kind]
    library.utils.set_random_seed(1)
    layers = library.layers
    model = library.Sequential(
        [layers.Input((4,), name="x"), layers.Dense(units, activation=activation, name="out")]
    )
    settings = PruneSettings(
        final_sparsity=0.25,
        end_step=80,
        frequency=20,
        learning_rate=0.1,
        loss="support.keras_zoo:absolute_error" if kind == "own loss" else "auto",
    )
    pruned = module.prune(model, Training({"x": value}, targets), settings, lambda share: None)
    answers = pruned.model.predict(value, verbose=0)
    if kind in ("values", "own loss"):
        assert np.abs(answers - targets.reshape(answers.shape)).mean() < 0.3
    elif kind == "one of many":
        assert (answers.argmax(axis=1) == signs[:, 0]).mean() > 0.9
    else:
        threshold = 0.5 if activation == "sigmoid" else 0.0
        assert ((answers > threshold) == targets.reshape(answers.shape)).mean() > 0.9


def test_the_callers_random_state_and_determinism_stay(keras3: Any, digits: Training) -> None:
    from tensorflow.python.framework import config

    np.random.seed(4)
    expected = np.random.get_state()[1].copy()
    settings = PruneSettings(end_step=2, frequency=1, steps=3)
    keras.prune(made_without_seeding(keras3), digits, settings, lambda share: None)
    assert np.array_equal(np.random.get_state()[1], expected)
    assert not config.is_op_determinism_enabled()


def made_without_seeding(library: Any) -> Any:
    layers = library.layers
    return library.Sequential([layers.Input((8, 8, 1), name="image"), layers.Flatten(), layers.Dense(10)])
