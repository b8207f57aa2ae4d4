"""Quantizers in their workers: the search that repairs a model, and what each runtime makes of the files."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from converters.arrays import Sample
from converters.formats.sources import SourceModel, read_source
from converters.quantize import boundary, search, variants
from converters.quantize.settings import QuantizeSettings
from converters.quantize.variants import Candidate
from converters.workers import messages
from converters.workers.trials import RUNTIMES, Bench
from support import convertible, uneven


@pytest.fixture
def bench(workplace: Path) -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(workplace, stack)


@pytest.fixture(scope="module")
def weights() -> uneven.Uneven:
    return uneven.fitted()


def flat(images: convertible.Images) -> list[Sample]:
    return [{"image": image.reshape(1, -1)} for image in images.pixels]


def dropping(bench: Bench, source: SourceModel) -> Callable[[Sequence[Candidate]], float]:
    """Return what measures the points that the worst of the files loses."""
    drawn = convertible.images(120)
    runtime = next(iter(RUNTIMES[source.engine]))

    def accuracy(path: Path) -> float:
        parameters = boundary.io_parameters(path)
        with bench.brief() as brief:
            loaded = brief.load(source.engine, runtime, path)
            fed = [boundary.to_integers(sample, loaded.inputs, parameters) for sample in flat(drawn)]
            answers = [boundary.to_floats(answer, parameters) for answer in brief.run(loaded, fed)]
        return float(np.mean([answer["scores"].argmax() for answer in answers] == drawn.classes))

    own = accuracy(source.path)
    return lambda files: 100 * max(own - accuracy(file.path) for file in files)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["onnx", "tflite"])
def test_search_repairs_a_model_that_plain_int8_ruins(bench, weights, workplace: Path, engine: str) -> None:
    write = uneven.write_onnx if engine == "onnx" else uneven.write_tflite
    source = read_source(write(workplace / f"model.{engine}", weights))
    settings = QuantizeSettings(io="int8", search_limit=3)
    calibration, drop = flat(convertible.images(40, seed=9)), dropping(bench, source)
    heard: list[float] = []

    found, ranked = search.search(
        bench, source, "int8", calibration, workplace, settings, drop, 2.0, heard.append
    )

    assert found.trail[0].excluded == ()
    assert found.trail[0].drop > 50
    assert found.fits
    assert found.drop <= 2.0
    assert {one.layer for one in ranked[:2]} == set(found.excluded) == {uneven.BEFORE, uneven.AFTER}
    assert ranked[1].loss > 100 * ranked[2].loss
    assert heard == sorted(heard)
    again = variants.make(
        bench,
        source,
        "int8",
        calibration,
        workplace,
        dataclasses.replace(settings, exclude=found.excluded),
    )
    assert drop(again) == found.drop


@pytest.mark.parametrize("engine", ["onnx", "tflite"])
def test_ends_and_the_hardest_tensors_are_shown(bench, weights, workplace: Path, engine: str) -> None:
    write = uneven.write_onnx if engine == "onnx" else uneven.write_tflite
    path = write(workplace / f"model.{engine}", weights)
    samples = flat(convertible.images(20, seed=9))
    settings = QuantizeSettings(calibration="percentile", percentile=99)
    ask = messages.Observe(
        engine=engine, source=str(path), data=str(bench.samples_file(samples)), tensors=4, settings=settings
    )

    shown = bench.observe(ask)

    assert [one.name for one in shown[:2]] == ["image", "scores"]
    assert len(shown) == 4
    assert sum(shown[0].counts) == 20 * uneven.WIDTHS[0]
    assert shown[0].minimum == min(float(sample["image"].min()) for sample in samples)
    assert any(one.maximum > 1000 and one.high < one.maximum for one in shown[2:])


@pytest.mark.parametrize("precision", ["fp16", "dynamic", "int8", "int16x8"])
def test_every_tflite_precision_is_made_and_keeps_the_accuracy(models, bench, workplace, precision) -> None:
    source = read_source(models.tflite)
    drawn = convertible.images(60)
    samples = [{"image": image[None, ..., None]} for image in drawn.pixels]

    (file,) = variants.make(bench, source, precision, samples[:20], workplace)

    assert file.precision == precision
    assert file.size_bytes < source.size_bytes
    answers = bench.run(bench.load("tflite", "ai-edge-litert", file.path), samples)
    assert np.mean([answer["scores"].argmax() for answer in answers] == drawn.classes) >= 0.95


def test_dense_layers_with_one_scale_are_right_on_the_old_runtime(models, bench, workplace: Path) -> None:
    source = read_source(models.tflite)
    samples = [{"image": image[None, ..., None]} for image in convertible.images(30).pixels]

    (first,) = variants.make(bench, source, "dynamic", [], workplace)
    second = variants.make_fallback(bench, source, "dynamic", workplace)

    assert second is not None
    errors = {}
    for file in (first, second):
        wanted, given = (
            bench.run(bench.load("tflite", runtime, path), samples)
            for runtime, path in (("ai-edge-litert", source.path), ("tflite-runtime", file.path))
        )
        apart = [np.abs(a["scores"] - b["scores"]).max() for a, b in zip(wanted, given, strict=True)]
        errors[file.method] = max(apart)
    assert errors["tflite-dynamic-tensorwise"] < 0.1
    assert errors["tflite-dynamic"] > 0.3


def test_half_precision_onnx_is_half_the_size(bench, workplace: Path) -> None:
    source = read_source(convertible.magika())

    (file,) = variants.make(bench, source, "fp16", [], workplace)

    assert file.size_bytes < 0.55 * source.size_bytes
    sample = {"bytes": np.arange(2048, dtype=np.int32)[None] % 256}
    answers = [
        bench.run(bench.load("onnx", "onnxruntime", path), [sample])[0]["target_label"]
        for path in (source.path, file.path)
    ]
    np.testing.assert_allclose(answers[1], answers[0], atol=0.01)
