"""Files of Keras 3 and legacy Keras: what is read, and what is refused with a sentence."""

import contextlib
import json
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from converters.errors import ConversionError
from converters.frameworks import keras, tf_keras
from converters.frameworks.identify import identify_file
from converters.frameworks.silence import silenced
from converters.terms import Origin
from edge_agent.documents.errors import ModelError
from support.keras_zoo import made


def at(path: Path, *, trusted: bool = False) -> Origin:
    return Origin("keras", str(path), trust_pickle=trusted)


def saved(model: Any, path: Path) -> Path:
    with silenced():
        model.save(path)
    return path


def weights_equal(one: Any, other: Any) -> bool:
    pairs = zip(one.get_weights(), other.get_weights(), strict=True)
    return all(np.array_equal(first, second) for first, second in pairs)


def test_a_keras_file_is_read_whole(keras3: Any, tmp_path: Path) -> None:
    model = made(keras3, "several")
    path = saved(model, tmp_path / "model.keras")
    loaded = keras.load(at(path))
    assert weights_equal(model, loaded)
    assert keras.input_names(loaded) == ("zebra", "ant")
    assert keras.keras_version(path) == keras3.__version__


@pytest.mark.parametrize("name", ["model.h5", "model.keras"])
def test_legacy_files_are_read_whole(legacy: Any, tmp_path: Path, name: str) -> None:
    model = made(legacy, "several")
    path = saved(model, tmp_path / name)
    loaded = tf_keras.load(at(path))
    assert type(loaded).__module__.startswith("tf_keras")
    assert weights_equal(model, loaded)
    assert tf_keras.input_names(loaded) == ("zebra", "ant")


def test_hdf5_of_keras_3_is_read_whole(keras3: Any, tmp_path: Path) -> None:
    model = made(keras3, "several")
    path = saved(model, tmp_path / "model.h5")
    assert identify_file(path) == "keras"
    assert weights_equal(model, keras.load(at(path)))
    with pytest.raises(ModelError, match=r"was saved as HDF5 by Keras 3.*rename it to \.h5"):
        keras.load(at(path.rename(tmp_path / "model")))


@pytest.mark.parametrize(
    "config",
    [
        '{"class_name":"Lambda"}',
        '{"class_name": "\\u004cambda"}',
        '{"a": [{"class_name": "builtins>Lambda"}]}',
        '{"a": {"class_name": "keras.layers.Lambda"}}',
        '{"function": {"class_name": "__lambda__"}}',
    ],
)
@pytest.mark.parametrize("module", [keras, tf_keras])
def test_a_lambda_in_hdf5_is_found_however_it_is_written(tmp_path: Path, module: Any, config: str) -> None:
    path = hdf5_of(tmp_path / "m.h5", config)
    with pytest.raises(ConversionError, match=r"has a Lambda layer.*--trust-pickle"):
        module.load(at(path))


def test_layers_that_are_no_json_are_refused(tmp_path: Path) -> None:
    path = hdf5_of(tmp_path / "m.h5", '{"class_name": "Lamb')
    with pytest.raises(ModelError, match="describes its layers in no JSON"):
        tf_keras.load(at(path))


def hdf5_of(path: Path, config: str) -> Path:
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = config
    return path


def test_damaged_bytes_in_an_archive_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.keras"
    metadata = json.dumps({"keras_version": "3.1", "more": [f"{index:x}" for index in range(500)]})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.json", metadata)
        archive.writestr("config.json", "{}")
    whole = path.read_bytes()
    for at_byte in (*range(6, 30), *range(44, 200, 8)):
        path.write_bytes(whole[:at_byte] + bytes([whole[at_byte] ^ 0xFF]) + whole[at_byte + 1 :])
        for read in (identify_file, keras.keras_version):
            with contextlib.suppress(ModelError):
                read(path)
    path.write_bytes(whole[:60] + bytes(60) + whole[120:])
    with pytest.raises(ModelError, match="damaged or truncated archive"):
        identify_file(path)
    with pytest.raises(ModelError, match="is not a Keras model, or it is truncated"):
        keras.keras_version(path)


def test_metadata_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.json", '{"keras_version": "3.1"}' + " " * 2**20)
        archive.writestr("config.json", "{}")
    with pytest.raises(ModelError, match="damaged or truncated archive"):
        identify_file(path)
    with pytest.raises(ModelError, match="is not a Keras model"):
        keras.keras_version(path)


def test_both_kerases_live_in_one_process(keras3: Any, legacy: Any) -> None:
    import tensorflow as tf

    assert keras3.__version__.startswith("3.")
    assert legacy.__version__.startswith("2.")
    assert tf.keras.__version__.startswith("3.")


@pytest.mark.parametrize("content", [b"", b"no model", b"PK\x03\x04 and no more"])
def test_what_is_no_keras_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.keras"
    path.write_bytes(content)
    for module in (keras, tf_keras):
        with pytest.raises(
            ModelError, match=r"is not a Keras model, or it is truncated; give a complete \.keras"
        ):
            module.load(at(path))
    with pytest.raises(ModelError, match="is not a Keras model"):
        keras.load(at(tmp_path / "absent.keras"))


def test_another_zip_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no model")
    with pytest.raises(ModelError, match="is not a Keras model"):
        keras.load(at(path))


def test_truncated_files_are_refused(keras3: Any, legacy: Any, tmp_path: Path) -> None:
    whole = saved(made(keras3, "cnn"), tmp_path / "whole.keras").read_bytes()
    (tmp_path / "part.keras").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="truncated"):
        keras.load(at(tmp_path / "part.keras"))
    whole = saved(made(legacy, "cnn"), tmp_path / "whole.h5").read_bytes()
    (tmp_path / "part.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"part\.h5 is truncated or damaged; give a complete \.h5 file"):
        tf_keras.load(at(tmp_path / "part.h5"))


def test_weights_alone_are_refused(legacy: Any, tmp_path: Path) -> None:
    made(legacy, "cnn").save_weights(tmp_path / "some.weights.h5")
    with pytest.raises(ModelError, match="holds weights alone; build the model"):
        tf_keras.load(at(tmp_path / "some.weights.h5"))


@pytest.mark.parametrize(
    ("framework", "name"), [("keras", "m.keras"), ("keras", "m.h5"), ("legacy", "m.h5"), ("legacy", "m.keras")]
)
def test_code_in_a_file_needs_trust(
    keras3: Any, legacy: Any, tmp_path: Path, framework: str, name: str
) -> None:
    library, module = (keras3, keras) if framework == "keras" else (legacy, tf_keras)
    layers = library.layers
    double = layers.Lambda(lambda x: x * 2.0, output_shape=(4,))
    path = saved(library.Sequential([layers.Input((4,), name="x"), double, layers.Dense(2)]), tmp_path / name)
    with pytest.raises(ConversionError, match=r"has a Lambda layer, which runs code.*--trust-pickle"):
        module.load(at(path))
    assert module.input_names(module.load(at(path, trusted=True))) == ("x",)


@pytest.mark.parametrize(
    ("framework", "name"), [("keras", "m.keras"), ("keras", "m.h5"), ("legacy", "m.h5"), ("legacy", "m.keras")]
)
def test_a_class_that_keras_does_not_have_is_refused(
    keras3: Any, legacy: Any, tmp_path: Path, framework: str, name: str
) -> None:
    library, module = (keras3, keras) if framework == "keras" else (legacy, tf_keras)

    class Mine(library.layers.Layer):  # type: ignore[misc, name-defined]
        def call(self, x: Any) -> Any:
            return x

    path = saved(library.Sequential([library.layers.Input((4,)), Mine()]), tmp_path / name)
    with pytest.raises(
        ConversionError, match=r"uses a class that Keras does not have .*give the live model"
    ) as caught:
        module.load(at(path))
    assert "\n" not in str(caught.value)
