from pathlib import Path

import pytest

from converters.errors import ConversionError
from converters.formats.sources import SourceModel, read_source
from converters.quantize import variants
from converters.quantize.settings import QuantizeSettings
from edge_agent.documents.errors import RequestError
from support import convertible


@pytest.fixture(scope="module")
def onnx(tmp_path_factory: pytest.TempPathFactory) -> SourceModel:
    folder = tmp_path_factory.mktemp("onnx")
    return read_source(convertible.write_onnx(folder / "m.onnx", convertible.fitted()))


@pytest.fixture(scope="module")
def tflite(tmp_path_factory: pytest.TempPathFactory) -> SourceModel:
    folder = tmp_path_factory.mktemp("tflite")
    return read_source(convertible.write_tflite(folder / "m.tflite", convertible.fitted()))


def test_default_is_the_source_and_dynamic(onnx: SourceModel) -> None:
    assert variants.wanted(onnx, None, has_data=False) == ("fp32", "dynamic")
    assert variants.wanted(read_source(convertible.okay_nabu()), None, has_data=False) == ("int8",)


def test_every_precision_can_be_asked_for_once(tflite: SourceModel, onnx: SourceModel) -> None:
    offered = variants.OFFERED
    assert variants.wanted(tflite, [*offered, "int8"], has_data=True) == offered
    assert variants.wanted(onnx, ["fp16", "int8"], has_data=True) == ("fp16", "int8")


@pytest.mark.parametrize("precision", variants.NEEDS_DATA)
def test_calibration_needs_data(tflite: SourceModel, precision: str) -> None:
    with pytest.raises(RequestError, match=f"{precision} needs samples to calibrate with"):
        variants.wanted(tflite, [precision], has_data=False)


def test_int16_activations_are_refused_for_onnx(onnx: SourceModel) -> None:
    with pytest.raises(ConversionError, match="int16x8 is made from TFLite only"):
        variants.wanted(onnx, ["int16x8"], has_data=True)


def test_uint8_ends_are_refused_for_tflite(tflite: SourceModel, onnx: SourceModel) -> None:
    settings = QuantizeSettings(io="uint8")
    with pytest.raises(ConversionError, match="uint8 inputs and outputs are made for ONNX only"):
        variants.wanted(tflite, ["int8"], has_data=True, settings=settings)
    assert variants.wanted(onnx, ["int8"], has_data=True, settings=settings) == ("int8",)


def test_names_that_are_no_precision(onnx: SourceModel) -> None:
    with pytest.raises(RequestError, match="no precision 'int4'"):
        variants.wanted(onnx, ["int4"], has_data=True)
    with pytest.raises(RequestError, match="No precision was given"):
        variants.wanted(onnx, [], has_data=True)


def test_integer_ends_make_one_file_for_all_architectures(onnx: SourceModel) -> None:
    assert [architectures for _, architectures in variants.methods(onnx, "int8")] == [("x86_64",), ("aarch64",)]
    assert variants.methods(onnx, "int8", QuantizeSettings(io="int8")) == (("onnx-int8-s8s8", ()),)
    assert variants.methods(onnx, "int8", QuantizeSettings(io="uint8")) == (("onnx-int8-u8s8", ()),)


def test_only_dynamic_tflite_has_another_way(onnx: SourceModel, tflite: SourceModel) -> None:
    assert variants.fallback(tflite, "dynamic") == "tflite-dynamic-tensorwise"
    assert variants.fallback(tflite, "dynamic", QuantizeSettings(per_channel=False)) is None
    assert variants.fallback(tflite, "int8") is None
    assert variants.fallback(onnx, "dynamic") is None


def test_ranges_are_kept_by_source_samples_and_method(onnx: SourceModel, tmp_path: Path) -> None:
    data, others = tmp_path / "a.npz", tmp_path / "b.npz"
    data.write_bytes(b"a")
    others.write_bytes(b"b")
    plain = QuantizeSettings()

    files = {
        variants.ranges_file(onnx, data, tmp_path, plain),
        variants.ranges_file(onnx, others, tmp_path, plain),
        variants.ranges_file(onnx, data, tmp_path, QuantizeSettings(calibration="entropy")),
    }

    assert len(files) == 3
    assert variants.ranges_file(onnx, data, tmp_path, QuantizeSettings(exclude=("x",))) in files
