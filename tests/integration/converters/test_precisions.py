"""Every precision and every way to make it, through the command, tried on every runtime that is offered it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from converters import cli
from converters.package import plain_blob, read_manifest
from edge_agent.documents.manifest import Manifest, Variant, blob_path
from support import convertible, probing, uneven

pytestmark = pytest.mark.timeout(300)

Build = Callable[..., dict[str, Any]]


@pytest.fixture
def build(workplace: Path, capfd: pytest.CaptureFixture[str]) -> Build:
    """Return a function that runs a build which must succeed in silence, and returns its JSON."""

    def run(*words: object) -> dict[str, Any]:
        code = cli.main(["build", *map(str, words), "--json"])
        out, err = capfd.readouterr()
        assert (code, err) == (0, ""), err
        content: dict[str, Any] = json.loads(out)
        return content

    return run


def checked(content: dict[str, Any]) -> Manifest:
    return probing.check(Path(content["folder"]))


def report_of(content: dict[str, Any]) -> dict[str, Any]:
    text = Path(content["folder"], "report.json").read_text()
    report: dict[str, Any] = json.loads(text, parse_constant=pytest.fail)
    return report


def stored(content: dict[str, Any], variant: Variant, target: Path) -> Path:
    return plain_blob(Path(content["folder"]), variant.file, target)


class TestFormats:
    def test_onnx(self, models, build: Build) -> None:
        words = ["--data", models.onnx_data, "--precision", "fp32,fp16,dynamic,int8", "--max-drop", "5"]
        manifest = checked(build(models.onnx, *words))

        assert [one.precision for one in manifest.variants].count("int8") == 2
        assert {one.precision for one in manifest.variants} == {"fp32", "fp16", "dynamic", "int8"}
        assert all(one.metrics["accuracy"] >= 0.9 for one in manifest.variants)

    def test_tflite(self, models, build: Build) -> None:
        precisions = "fp32,fp16,dynamic,int8,int16x8"
        words = ["--data", models.tflite_data, "--precision", precisions, "--max-drop", "5"]
        manifest = checked(build(models.tflite, *words))

        assert {one.precision for one in manifest.variants} == set(precisions.split(","))
        # The runtime that gets per-channel dynamic wrong is offered another file.
        dynamic = {one.requires.runtimes for one in manifest.variants if one.precision == "dynamic"}
        assert dynamic == {("ai-edge-litert",), ("tflite-runtime",)}

    @pytest.mark.parametrize("kind", ["onnx", "tflite"])
    def test_calibrations(self, kind: str, models, build: Build) -> None:
        model, data = (getattr(models, name) for name in (kind, f"{kind}_data"))
        digests = set()
        for calibration in ("minmax", "entropy", "percentile"):
            words = ["--data", data, "--precision", "int8", "--calibration", calibration, "--max-drop", "5"]
            content = build(model, *words, "--version", calibration)
            digests |= {one.file.kept_sha256 for one in checked(content).variants}
        # Of ONNX there is a file for each architecture.
        assert len(digests) == (6 if kind == "onnx" else 3)


class TestIntegerEnds:
    @pytest.mark.parametrize(
        ("kind", "io", "datatype"),
        [("onnx", "int8", "INT8"), ("onnx", "uint8", "UINT8"), ("tflite", "int8", "INT8")],
    )
    def test_device_gives_and_takes_integers(
        self, kind: str, io: str, datatype: str, models, build: Build
    ) -> None:
        model, data = (getattr(models, name) for name in (kind, f"{kind}_data"))
        content = build(model, "--data", data, "--precision", "int8", "--io", io, "--max-drop", "5")
        manifest = checked(content)

        assert [one.datatype for one in (*manifest.inputs, *manifest.outputs)] == [datatype, datatype]
        assert manifest.golden is not None
        golden = Path(content["folder"], blob_path(manifest.golden.file.sha256))
        with np.load(golden, allow_pickle=False) as archive:
            assert {str(archive[name].dtype) for name in archive.files} == {io}
        assert all(one.metrics["accuracy"] >= 0.9 for one in manifest.variants)


class TestLayers:
    def test_excluded_layer_stays_in_float(self, models, build: Build, tmp_path: Path) -> None:
        words = [models.onnx, "--data", models.onnx_data, "--precision", "int8", "--max-drop", "5"]
        kept = {}
        for version, more in (("all", []), ("some", ["--exclude", "Gemm_*"])):
            content = build(*words, *more, "--version", version)
            variant = checked(content).variants[0]
            proto = onnx.load(str(stored(content, variant, tmp_path / version)))
            kept[version] = [one.name for one in proto.graph.initializer if one.name == "last"]
        assert kept == {"all": [], "some": ["last"]}

    def test_one_scale_a_weight(self, models, build: Build, tmp_path: Path) -> None:
        words = [models.onnx, "--data", models.onnx_data, "--precision", "int8", "--max-drop", "20"]
        scales = {}
        for version, more in (("channel", []), ("tensor", ["--per-tensor"])):
            content = build(*words, *more, "--version", version)
            proto = onnx.load(str(stored(content, checked(content).variants[0], tmp_path / version)))
            constants = {one.name: numpy_helper.to_array(one) for one in proto.graph.initializer}
            filters = next(name for name in constants if name.startswith("filters") and "scale" in name)
            scales[version] = constants[filters].size
        assert scales == {"channel": convertible.FILTERS, "tensor": 1}


@pytest.mark.slow
class TestSearch:
    @pytest.mark.parametrize("kind", ["onnx", "tflite"])
    def test_finds_the_layers_that_cost_accuracy(
        self, kind: str, workplace: Path, build: Build, capfd: pytest.CaptureFixture[str]
    ) -> None:
        drawn, weights = convertible.images(200), uneven.fitted()
        np.savez("data.npz", image=drawn.pixels.reshape(200, -1), y=drawn.classes)
        write = uneven.write_onnx if kind == "onnx" else uneven.write_tflite
        model = write(workplace / f"uneven.{kind}", weights)
        words = [model, "--data", "data.npz", "--precision", "int8", "--max-drop", "1"]

        assert cli.main(["build", *map(str, words), "--out", "plain"]) == 2
        assert "No variant is good enough" in capfd.readouterr().err
        assert not Path("plain").exists()
        content = build(*words, "--search")

        manifest = checked(content)
        own = manifest.metadata["float"]["accuracy"]
        assert all(own - one.metrics["accuracy"] <= 0.01 for one in manifest.variants)
        row = next(row for row in content["variants"] if row["packaged"])
        assert set(row["excluded"]) & {uneven.BEFORE, uneven.AFTER}
        report = report_of(content)
        # Nothing runs plain int8 right, which JSON has no number for.
        assert report["search"][0] == {"kept": [], "drop": None}
        assert any(step["drop"] is not None and step["drop"] <= 1 for step in report["search"])
        assert len(report["sensitivities"]) >= 4


@pytest.mark.slow
@pytest.mark.timeout(600)
class TestPruning:
    """Fine-tuned for a few steps alone, so the limits are wide."""

    @pytest.mark.parametrize("kind", ["keras", "torch"])
    def test_zeros_shrink_what_travels(self, kind: str, trained, build: Build, tmp_path: Path) -> None:
        content = build(*self.words(trained, kind), "--prune", "0.8", "--max-drop", "20")
        manifest, report = checked(content), report_of(content)

        assert manifest.metadata["sparsity"] == pytest.approx(0.8, abs=0.01)
        assert manifest.metadata["recipe"]["prune"]["final_sparsity"] == 0.8
        assert report["pruning"]["sparsity"] == pytest.approx(0.8, abs=0.01)
        assert report["pruning"]["compressed_after_bytes"] < 0.5 * report["pruning"]["compressed_before_bytes"]
        assert {one.file.compression for one in manifest.variants} == {"zstd"}
        plain = next(one for one in manifest.variants if (one.engine, one.precision) == ("onnx", "fp32"))
        assert _zeros(stored(content, plain, tmp_path / "model.onnx")) == pytest.approx(0.8, abs=0.01)
        # What was lost is lost against the model as it was trained.
        assert manifest.metadata["float"]["accuracy"] >= 0.95
        for row in content["variants"]:
            assert row["drop"] == pytest.approx(100 * (manifest.metadata["float"]["accuracy"] - row["score"]))

    @pytest.mark.parametrize("kind", ["keras", "torch"])
    def test_channels_shrink_the_graph(self, kind: str, trained, build: Build) -> None:
        words = [*self.words(trained, kind), "--prune", "0.5", "--prune-method", "channels"]
        content = build(*words, "--max-drop", "60", "--to", "onnx")
        manifest = checked(content)

        plain = next(one for one in manifest.variants if one.precision == "fp32")
        assert plain.file.kept_size_bytes < 0.6 * manifest.metadata["float"]["size_bytes"]
        assert 0.3 <= manifest.metadata["sparsity"] <= 0.6
        pruning = report_of(content)["pruning"]
        assert pruning["method"] == "channels"
        assert pruning["size_before_bytes"] == manifest.metadata["float"]["size_bytes"]
        assert pruning["size_after_bytes"] == plain.file.kept_size_bytes

    def test_gate_compares_with_the_model_before(
        self, trained, workplace: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        words = [*self.words(trained, "torch"), "--prune", "0.99", "--to", "onnx", "--max-drop", "1"]

        assert cli.main(["build", *map(str, words)]) == 2

        assert "No variant is good enough" in capfd.readouterr().err
        assert not list(workplace.iterdir())

    def words(self, trained, kind: str) -> list[object]:
        place = trained(kind)
        model = str(place / "cnn.keras") if kind == "keras" else "nets:make_net"
        weights = "" if kind == "keras" else f'weights = "{place / "weights.pt"}"\n'
        recipe = place / "prune.toml"
        recipe.write_text(
            f'model = "{model}"\nimport_from = "{place}"\nout = "{Path.cwd() / "packages"}"\n{weights}'
            "[prune]\nend_step = 60\nfrequency = 5\nlearning_rate = 0.005\n"
        )
        return [recipe, "--data", place / f"{kind}.npz", "--precision", "fp32,int8"]


def _zeros(path: Path) -> float:
    """Return the share of exact zeros among the weights of an ONNX file, biases left out."""
    weights = [numpy_helper.to_array(one) for one in onnx.load(str(path)).graph.initializer]
    matrices = [one for one in weights if one.ndim >= 2 and one.dtype == np.float32]
    return sum(int((one == 0).sum()) for one in matrices) / sum(one.size for one in matrices)


def test_manifest_of_the_command_is_that_of_the_package(models, build: Build) -> None:
    content = build(models.tflite, "--precision", "fp32", "--samples", "10", "--version", "1")
    assert read_manifest(Path(content["folder"])).version == "1"
