"""Models with labels, class numbers and values, scored on a real runtime."""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from converters import convert
from converters.checks.gate import Gate
from converters.checks.judge import Judged, Reference, judge, take_reference
from converters.checks.settings import EvaluateSettings
from converters.conversion import assemble
from converters.data.samples import Samples
from converters.errors import DataError
from converters.formats.sources import read_source
from converters.quantize.variants import Candidate
from converters.workers.trials import Bench
from edge_agent.documents.errors import ModelLoadError
from edge_agent.documents.manifest import blob_path
from support import convertible

CLASSES = 4
NAMES = [b"row", b"column", b"diagonal", b"square"]

Outputs = list[tuple[str, int]]
SCORES, CLASS, LABEL = (
    ("scores", TensorProto.FLOAT),
    ("class", TensorProto.INT64),
    ("label", TensorProto.STRING),
)


def write(path: Path, matrix: np.ndarray, outputs: Outputs) -> Path:
    """Write scores = x @ matrix, with the class and its name as further outputs; x is FP32 [n, 4]."""
    names = helper.make_tensor("names", TensorProto.STRING, [CLASSES], NAMES)
    shapes = {"scores": ["n", matrix.shape[1]], "class": ["n"], "label": ["n"]}
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "matrix"], ["scores"]),
            helper.make_node("ArgMax", ["scores"], ["class"], axis=1, keepdims=0),
            helper.make_node("Gather", ["names", "class"], ["label"]),
        ],
        "model",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info(name, kind, shapes[name]) for name, kind in outputs],
        [numpy_helper.from_array(matrix.astype(np.float32), "matrix"), names],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))
    return path


def drawn(count: int = 60) -> Samples:
    """Samples whose largest value is where their class is."""
    random = np.random.default_rng(1)
    rows = (random.random((count, 4)) + 0.5 * np.eye(CLASSES)[random.integers(0, CLASSES, count)]).astype(
        np.float32
    )
    return Samples(tuple({"x": row[None]} for row in rows), rows.argmax(axis=1))


def spoilt(share: float) -> np.ndarray:
    """A matrix that moves some of class 0 to class 1."""
    matrix = np.eye(CLASSES, dtype=np.float32)
    matrix[0, 1] = share
    return matrix


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    folder = tmp_path / "bench"
    folder.mkdir()
    with ExitStack() as stack:
        yield Bench(folder, stack)


def reference_of(bench: Bench, path: Path, samples: Samples, metric: str = "auto", **others) -> Reference:
    source = read_source(path)
    loaded = bench.load("onnx", "onnxruntime", path)
    return take_reference(
        bench, source, loaded, samples, lambda share: None, settings=EvaluateSettings(metric), **others
    )


def judged_of(bench: Bench, reference: Reference, path: Path) -> Judged:
    content = path.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    candidate = Candidate("int8", "onnx", path, len(content), sha256, "made")
    return judge(bench, reference, candidate, ("onnxruntime",), lambda share: None)


@pytest.mark.parametrize("outputs", [[SCORES], [SCORES, CLASS, LABEL], [CLASS, SCORES], [LABEL, SCORES]])
def test_classes_are_read_from_what_there_is(bench: Bench, tmp_path: Path, outputs: Outputs) -> None:
    reference = reference_of(bench, write(tmp_path / "model.onnx", spoilt(0), outputs), drawn())

    assert reference.metric.name == "accuracy"
    assert reference.score == 1.0
    assert reference.classifier
    assert reference.per_class == dict.fromkeys(range(CLASSES), 1.0)
    same = judged_of(bench, reference, write(tmp_path / "same.onnx", spoilt(0.01), outputs))
    assert not same.failure
    assert (same.agreement, same.score, same.lost) == (1.0, 1.0, 0.0)


def test_variant_is_scored_by_the_metric(bench: Bench, tmp_path: Path) -> None:
    samples = drawn()
    reference = reference_of(bench, write(tmp_path / "model.onnx", spoilt(0), [SCORES]), samples, "f1")

    judged = judged_of(bench, reference, write(tmp_path / "worse.onnx", spoilt(0.45), [SCORES]))

    assert not judged.failure
    assert judged.score is not None
    assert judged.lost == pytest.approx(100 * (1 - judged.score))
    assert judged.lost > 0
    assert judged.per_class is not None
    assert judged.per_class[0] < 1
    verdicts = assemble.verdicts(reference, [judged], Gate(max_drop=judged.lost / 2))
    assert "points of f1" in verdicts[0].reason
    row = assemble.rows(reference, verdicts, [], {}, ())[0]
    assert (row.score, row.drop) == (judged.score, judged.lost)


def test_values_and_functions(bench: Bench, tmp_path: Path) -> None:
    samples = drawn()
    values = Samples(samples.inputs, np.stack([sample["x"][0] for sample in samples.inputs]).astype(np.float64))
    path = write(tmp_path / "model.onnx", spoilt(0), [SCORES])
    other = write(tmp_path / "other.onnx", spoilt(0.05), [SCORES])

    errors = reference_of(bench, path, values)
    assert errors.metric.name == "mae"
    assert errors.score == pytest.approx(0, abs=1e-6)
    lost = judged_of(bench, errors, other).lost
    assert lost is not None
    assert 0 < lost < 5

    own = reference_of(bench, path, values, function=lambda answers, targets: float(answers["scores"].shape[0]))
    assert own.score == len(values)
    assert judged_of(bench, own, other).lost == 0


def test_loss_of_a_pruned_model_is_told_against_the_trained_one(bench: Bench, tmp_path: Path) -> None:
    trained = reference_of(bench, write(tmp_path / "model.onnx", spoilt(0), [SCORES]), drawn())
    pruned_path = write(tmp_path / "pruned.onnx", spoilt(0.45), [SCORES])

    pruned = reference_of(bench, pruned_path, drawn(8), baseline=trained)
    itself = judged_of(bench, pruned, write(tmp_path / "variant.onnx", spoilt(0.45), [SCORES]))

    assert len(pruned.evaluation) == len(trained.evaluation)
    assert pruned.score is not None
    assert pruned.score < 1
    # Golden answers and tolerances are the pruned model's, accuracy and agreement are against the trained one.
    assert itself.golden_errors == {"scores": 0.0}
    assert itself.agreement == pytest.approx(pruned.score)
    assert itself.lost == pytest.approx(100 * (1 - pruned.score))
    # The same samples in the same order, the clearest of the pruned model in front.
    for sample, answer, before in zip(
        pruned.evaluation.inputs, pruned.answers, pruned.trained.answers, strict=True
    ):
        np.testing.assert_allclose(before["scores"], sample["x"], rtol=1e-6)
        np.testing.assert_allclose(answer["scores"], sample["x"] @ spoilt(0.45), rtol=1e-5)


def test_pruned_model_with_another_signature_is_refused(bench: Bench, tmp_path: Path) -> None:
    trained = reference_of(bench, write(tmp_path / "model.onnx", spoilt(0), [SCORES]), drawn())

    with pytest.raises(ModelLoadError, match="outputs are not those of the source model"):
        reference_of(bench, write(tmp_path / "b.onnx", spoilt(0), [SCORES, CLASS]), drawn(), baseline=trained)


def test_wrong_label_on_a_golden_sample_is_told(bench: Bench, tmp_path: Path) -> None:
    reference = reference_of(bench, write(tmp_path / "model.onnx", spoilt(0), [LABEL]), drawn(), "agreement")
    turned = np.roll(np.eye(CLASSES), 1, axis=1)

    judged = judged_of(bench, reference, write(tmp_path / "turned.onnx", turned, [LABEL]))

    assert "output 'label' has another shape or text" in judged.failure
    assert reference.score is None


def test_labels_that_the_model_does_not_have(bench: Bench, tmp_path: Path) -> None:
    samples = Samples(drawn(20).inputs, np.arange(20))
    path = write(tmp_path / "model.onnx", spoilt(0), [SCORES])

    for metric in ("accuracy", "top-k"):
        with pytest.raises(DataError, match="go from 0 to 19, but output 'scores' has 4 values"):
            reference_of(bench, path, samples, metric)
    with pytest.raises(DataError, match="top-5 says nothing"):
        reference_of(bench, path, drawn(), "top-k")
    with pytest.raises(DataError, match="The float model's <lambda> is nan"):
        reference_of(bench, path, drawn(), function=lambda answers, targets: np.nan)


def test_labels_in_a_package_pass_as_on_a_device(tmp_path: Path) -> None:
    """The whole way: the golden file holds text without pickles, and an engine's answer is compared with it."""
    from edge_agent.documents.settings import EngineSettings
    from edge_agent.engines.golden import check_outputs, read_golden
    from edge_agent.engines.onnx import OnnxEngine

    model = write(tmp_path / "model.onnx", spoilt(0), [SCORES, CLASS, LABEL])
    data = {"x": np.concatenate([sample["x"] for sample in drawn().inputs]), "y": drawn().targets}

    package = convert(model, precision=["fp32"], data=data, out=tmp_path / "out")

    manifest = package.manifest
    assert manifest.golden is not None
    assert manifest.variants[0].tolerances["label"].atol == 0
    engine = OnnxEngine.load(model, EngineSettings())
    samples = read_golden(package.folder / blob_path(manifest.golden.file.sha256))
    assert len(samples) == manifest.golden.samples
    for index, sample in enumerate(samples):
        assert sample.outputs["label"].dtype.kind == "S"
        got = engine.run(sample.inputs)
        assert got["label"].dtype == object
        check_outputs(index, got, {"label": sample.outputs["label"], "class": sample.outputs["class"]}, {})


def test_folder_of_images_to_a_package(models, tmp_path: Path) -> None:
    """Class folders give calibration, evaluation and the names; a copy of an image stays on its side."""
    images = convertible.images(100)
    names = ("a row", "b column", "c diagonal", "d square")
    for index, (pixels, number) in enumerate(zip(images.pixels, images.classes, strict=True)):
        place = tmp_path / "data" / names[number]
        place.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray((pixels * 255).astype(np.uint8))
        for copy in ("", "-again"):
            picture.save(place / f"{index}{copy}.png")

    package = convert(
        models.onnx,
        precision=["fp32", "int8"],
        data=tmp_path / "data",
        evaluate=EvaluateSettings("f1"),
        max_drop=5,
        out=tmp_path / "out",
    )

    manifest = package.manifest
    assert manifest.labels == names
    assert manifest.metadata["evaluation"]["metric"] == "f1"
    # Half of the 100 different images, each with its copy.
    assert manifest.metadata["evaluation"]["samples"] == 100
    assert all(variant.metrics["f1"] > 0.9 for variant in manifest.variants)


@pytest.mark.slow
def test_folder_of_images_suits_a_live_pytorch_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example input has the channels first, and so have the samples; no size is given anywhere."""
    # In the process of a live model PyTorch keeps a cache of its own, in the folder for temporary files.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    import torch

    random = np.random.default_rng(0)
    for name, offset in (("dark", 0), ("light", 150)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(10):
            pixels = (random.random((10, 12, 3)) * 100 + offset).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{index}.png")
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 2)
    )
    with torch.no_grad():
        model[0].weight.fill_(1 / 27)
        model[0].bias.zero_()
        model[3].weight.copy_(torch.tensor([[-1.0] * 4, [1.0] * 4]))
        model[3].bias.copy_(torch.tensor([2.0, -2.0]))

    package = convert(
        model.eval(),
        data=tmp_path / "data",
        to=["onnx"],
        precision=["fp32"],
        name="net",
        out=tmp_path / "out",
    )

    assert package.manifest.inputs[0].shape[1:] == (3, 10, 12)
    assert package.manifest.labels == ("dark", "light")
    assert package.manifest.metadata["float"]["accuracy"] == 1.0


class TestOneProbability:
    """Two classes told by one value, as a sigmoid gives it."""

    def write(self, path: Path, weight: float, last: str = "Sigmoid") -> Path:
        graph = helper.make_graph(
            [
                helper.make_node("MatMul", ["x", "matrix"], ["sum"]),
                helper.make_node(last, ["sum"], ["scores"]),
            ],
            "model",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
            [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 1])],
            [numpy_helper.from_array(np.array([[weight], [-4], [0], [0]], np.float32), "matrix")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, str(path))
        return path

    def samples(self) -> Samples:
        inputs = drawn().inputs
        return Samples(inputs, np.array([sample["x"][0, 0] > sample["x"][0, 1] for sample in inputs], np.int64))

    def test_is_scored_by_class(self, bench: Bench, tmp_path: Path) -> None:
        samples = self.samples()
        reference = reference_of(bench, self.write(tmp_path / "model.onnx", 4), samples)

        judged = judged_of(bench, reference, self.write(tmp_path / "other.onnx", 3))

        assert reference.score == 1.0
        want = np.mean([(3 * x[0, 0] > 4 * x[0, 1]) == (x[0, 0] > x[0, 1]) for x in
                        (sample["x"] for sample in samples.inputs)])  # fmt: skip
        assert want < 1
        assert judged.score == judged.agreement == pytest.approx(want)
        unclear = [abs(answer["scores"].item() - 0.5) for answer in reference.answers]
        assert min(unclear[: reference.golden]) >= np.median(unclear)

    def test_of_another_kind_is_told(self, bench: Bench, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no probability of class 1"):
            reference_of(bench, self.write(tmp_path / "model.onnx", 4, "Identity"), self.samples())
        with pytest.raises(DataError, match="go from 0 to 3, but output 'scores' has 1 values"):
            reference_of(bench, self.write(tmp_path / "model.onnx", 4), drawn())
