from pathlib import Path

import numpy as np
import pytest

from converters.arrays import Sample
from converters.errors import ConversionError
from converters.formats import tflite_model
from converters.formats.tflite_schema import schema
from converters.quantize import boundary
from converters.quantize import tflite as quantize_tflite
from converters.quantize.settings import QuantizeSettings
from edge_agent.documents.settings import EngineSettings
from edge_agent.engines.tflite import TfliteEngine
from support import convertible

LITERT = EngineSettings(tflite_runtime="ai-edge-litert")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convertible.write_tflite(tmp_path_factory.mktemp("model") / "cnn.tflite", convertible.fitted())


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return [{"image": image[None, ..., None]} for image in convertible.images(40, seed=5).pixels]


def static(source: Path, target: Path, samples: list[Sample], bits: int = 8, **settings) -> Path:
    chosen = QuantizeSettings(**settings)
    quantize_tflite.quantize_static(source, target, samples, activation_bits=bits, settings=chosen)
    return target


def accuracy(path: Path) -> float:
    drawn = convertible.images(100)
    engine = TfliteEngine.load(path, LITERT)
    parameters = boundary.io_parameters(path)
    right = 0
    for image, wanted in zip(drawn.pixels, drawn.classes, strict=True):
        fed = boundary.to_integers({"image": image[None, ..., None]}, engine.inputs, parameters)
        scores = boundary.to_floats(engine.run(fed), parameters)["scores"]
        right += int(scores.argmax() == wanted)
    return right / len(drawn.classes)


def scale_of(path: Path, name: str) -> np.ndarray:
    graph = tflite_model.read(path).subgraphs[0]
    return np.asarray(next(one.quantization.scale for one in graph.tensors if one.name == name.encode()))


def test_zero_points_of_all_channels_are_stored_once(source, samples, tmp_path: Path) -> None:
    target = static(source, tmp_path / "q.tflite", samples)

    model = tflite_model.read(target)
    graph = schema().Model.GetRootAs(target.read_bytes()).Subgraphs(0)
    tensors = [graph.Tensors(index).Quantization() for index in range(graph.TensorsLength())]
    many = [one for one in tensors if one is not None and one.ZeroPointLength() == 4]
    # The dense layer has 4 units: its weights have a scale for each, and so have its biases.
    assert len(many) == 2
    assert len({one._tab.Vector(one._tab.Offset(10)) for one in many}) == 1
    assert len({one._tab.Vector(one._tab.Offset(8)) for one in many}) == 2
    assert tflite_model.serialised(model) == target.read_bytes()


@pytest.mark.parametrize("bits", [8, 16])
def test_static_variants_keep_the_signature(source, samples, tmp_path: Path, bits: int) -> None:
    target = static(source, tmp_path / "q.tflite", samples, bits)

    model = tflite_model.read(target)
    assert tflite_model.precision(model) == {8: "int8", 16: "int16x8"}[bits]
    engine = TfliteEngine.load(target, LITERT)
    ends = [(spec.name, spec.datatype) for spec in (*engine.inputs, *engine.outputs)]
    assert ends == [("image", "FP32"), ("scores", "FP32")]
    assert accuracy(target) >= 0.97


def test_int16_activations_are_closer_than_int8(source, samples, tmp_path: Path) -> None:
    wanted = TfliteEngine.load(source, LITERT).run(dict(samples[0]))["scores"]
    errors = {}
    for bits in (8, 16):
        engine = TfliteEngine.load(static(source, tmp_path / "q.tflite", samples, bits), LITERT)
        errors[bits] = float(np.abs(engine.run(dict(samples[0]))["scores"] - wanted).max())
    assert errors[16] < errors[8]


def test_ends_can_be_int8_with_their_names(source, samples, tmp_path: Path) -> None:
    target = static(source, tmp_path / "q.tflite", samples, io="int8")

    engine = TfliteEngine.load(target, LITERT)
    ends = [(spec.name, spec.datatype) for spec in (*engine.inputs, *engine.outputs)]
    assert ends == [("image", "INT8"), ("scores", "INT8")]
    assert boundary.io_parameters(target)["image"] == (pytest.approx(1 / 255, rel=0.01), -128)
    assert accuracy(target) >= 0.97


@pytest.mark.parametrize("layer", ["convolved", "scores"])
def test_ends_are_int8_beside_a_float_layer_too(source, samples, tmp_path: Path, layer: str) -> None:
    target = static(source, tmp_path / "q.tflite", samples, io="int8", exclude=(layer,))

    engine = TfliteEngine.load(target, LITERT)
    assert {spec.datatype for spec in (*engine.inputs, *engine.outputs)} == {"INT8"}
    assert accuracy(target) >= 0.97


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_calibration_methods_narrow_the_range(source, samples, tmp_path: Path, method: str) -> None:
    outlier = [*samples, {"image": samples[0]["image"].copy()}]
    outlier[-1]["image"][0, 5, 5] = 40

    target = static(source, tmp_path / "q.tflite", outlier, io="int8", calibration=method, percentile=99)

    widest = 255 * boundary.io_parameters(target)["image"][0]
    assert widest == pytest.approx(40, rel=0.01) if method == "minmax" else widest < 5
    assert method == "minmax" or accuracy(target) >= 0.97


def test_the_widest_sample_counts_wherever_it_stands(source, samples, tmp_path: Path) -> None:
    wide = {"image": 30 * samples[0]["image"]}
    scales = {
        boundary.io_parameters(static(source, tmp_path / "q.tflite", given, io="int8"))["image"]
        for given in ([wide, *samples], [*samples, wide])
    }
    assert len(scales) == 1


def test_excluded_layer_stays_in_float_with_what_follows(source, samples, tmp_path: Path) -> None:
    model = tflite_model.read(static(source, tmp_path / "q.tflite", samples, exclude=("conv*",)))

    counts = tflite_model.operators(model)
    assert list(counts) == ["CONV_2D", "MAX_POOL_2D", "QUANTIZE", "FULLY_CONNECTED", "DEQUANTIZE"]
    assert scale_of_or_none(model, "filters") is None


def test_scales_per_channel_and_for_whole_tensors(source, samples, tmp_path: Path) -> None:
    for per_channel, count in ((True, convertible.FILTERS), (False, 1)):
        target = static(source, tmp_path / "q.tflite", samples, per_channel=per_channel)
        assert scale_of(target, "filters").size == count


def test_half_and_dynamic_take_exclusions(source: Path, tmp_path: Path) -> None:
    target, settings = tmp_path / "q.tflite", QuantizeSettings(exclude=("scores",))
    quantize_tflite.quantize_dynamic(source, target, settings)
    assert scale_of_or_none(tflite_model.read(target), "last") is None
    assert scale_of(target, "filters").size == convertible.FILTERS

    quantize_tflite.quantize_half(source, target, settings)
    types = {bytes(one.name): one.type for one in tflite_model.read(target).subgraphs[0].tensors}
    assert types[b"last"] == 0
    assert sum(kind == 1 for kind in types.values()) == 1


def test_pattern_that_matches_nothing_is_refused(source, samples, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"'nope' in exclude matches no layer .* convolved, scores"):
        static(source, tmp_path / "q.tflite", samples, exclude=("nope",))


def test_nan_in_a_sample_is_refused(source, samples, tmp_path: Path) -> None:
    bad = [*samples, {"image": np.full((1, 12, 12, 1), np.nan, np.float32)}]
    with pytest.raises(ConversionError, match=r"make tensor '.*' NaN"):
        static(source, tmp_path / "q.tflite", bad)


def test_free_dimensions_stay_free_at_both_ends(samples, tmp_path: Path) -> None:
    model = tflite_model.read(convertible.write_tflite(tmp_path / "m.tflite", convertible.fitted()))
    for tensor in model.subgraphs[0].tensors:
        if tensor.name in (b"image", b"convolved", b"pooled", b"scores"):
            tensor.shapeSignature = [-1, *tensor.shape[1:]]
    path = tmp_path / "free.tflite"
    path.write_bytes(tflite_model.serialised(model))

    engine = TfliteEngine.load(static(path, tmp_path / "q.tflite", samples), LITERT)

    assert (engine.inputs[0].shape, engine.outputs[0].shape) == ((-1, 12, 12, 1), (-1, 4))
    batch = np.concatenate([sample["image"] for sample in samples[:3]])
    assert engine.run({"image": batch})["scores"].shape == (3, 4)


def test_ranges_are_kept_for_the_next_time(source, samples, tmp_path: Path) -> None:
    target, kept = tmp_path / "q.tflite", tmp_path / "ranges.json"
    results = []
    for given in (samples, []):
        quantize_tflite.quantize_static(source, target, given, ranges=kept)
        results.append(target.read_bytes())
    assert results[0] == results[1]


def scale_of_or_none(model, name: str):
    graph = model.subgraphs[0]
    tensor = next(one for one in graph.tensors if one.name == name.encode())
    return None if tensor.quantization is None else tensor.quantization.scale
