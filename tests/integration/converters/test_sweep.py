"""Sweeps over real small models."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import joblib
import numpy as np
import pytest

from converters import cli, convert
from converters.commands import sweep as command
from converters.conversion.recipe import Recipe
from converters.data.settings import DataSettings
from converters.errors import ConversionError
from converters.package import plain_blob, read_manifest
from converters.report.model import Package
from converters.sweep import building
from converters.sweep.results import Sweep
from converters.sweep.runner import Builder, plan, sweep
from edge_agent.documents.errors import NotFoundError, RequestError
from support import convertible


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    weights = convertible.fitted()
    convertible.write_onnx(folder / "cnn.onnx", weights)
    kept = (np.arange(len(weights.last)) % 2).astype(np.float32)
    halved = dataclasses.replace(weights, last=weights.last * kept[:, None])
    convertible.write_onnx(folder / "halved.onnx", halved)
    images = convertible.images(60, seed=5)
    np.savez(folder / "data.npz", image=images.pixels[:, None], y=images.classes)
    return folder


@pytest.fixture
def recipe(folder: Path, tmp_path: Path) -> Recipe:
    return Recipe(data=DataSettings(path=str(folder / "data.npz")), version="1", out=str(tmp_path / "out"))


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made."""
    path = tmp_path / "scratch"
    path.mkdir()
    monkeypatch.setenv("TMPDIR", str(path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return path


def results(found: Sweep) -> set[tuple[str, str]]:
    return {(row.trial, row.reason) for row in found.rows if not row.architectures}


class TestRecipes:
    def test_the_plan_is_what_model_and_data_allow(self, folder: Path, recipe: Recipe) -> None:
        found = plan([folder / "cnn.onnx", folder / "halved.onnx"], recipe)
        assert [(trial.model, trial.name) for trial in found] == [
            (model, f"onnx {name}")
            for model in ("cnn", "halved")
            for name in (
                "fp32",
                "fp16",
                "dynamic",
                "int8 minmax",
                "int8 entropy",
                "int8 percentile",
                "int8 minmax per-tensor",
                "int8 search",
            )
        ]

    def test_models_of_one_name_are_told_apart(self, folder: Path, recipe: Recipe, tmp_path: Path) -> None:
        twin = tmp_path / "cnn.onnx"
        twin.write_bytes((folder / "cnn.onnx").read_bytes())
        found = plan([folder / "cnn.onnx", twin], recipe)
        assert {trial.model for trial in found} == {str(folder / "cnn.onnx"), str(twin)}

    def test_nothing_to_try_is_told(self, folder: Path, recipe: Recipe) -> None:
        with pytest.raises(RequestError, match="There is nothing to try"):
            plan([folder / "cnn.onnx"], dataclasses.replace(recipe, precision=("int16x8",)))

    def test_a_missing_model_is_told_before_anything_runs(self, folder: Path, recipe: Recipe) -> None:
        with pytest.raises(NotFoundError):
            sweep([folder / "cnn.onnx", folder / "none.onnx"], recipe)


class TestSweep:
    @pytest.mark.slow
    def test_two_models_on_all_cores_and_the_best_is_packaged(
        self, folder: Path, recipe: Recipe, scratch: Path
    ) -> None:
        heard: list[tuple[str, float]] = []
        found = sweep(
            [folder / "cnn.onnx", folder / "halved.onnx"],
            dataclasses.replace(recipe, precision=("fp32", "dynamic")),
            pick="drop<=1pt, smallest",
            jobs=2,
            progress=lambda step, share: heard.append((step, share)),
        )

        assert found.metric.name == "accuracy"
        measured = [row for row in found.rows if row.result is not None]
        assert {(row.model, row.precision) for row in measured} == {
            (model, precision) for model in ("cnn", "halved") for precision in ("fp32", "dynamic")
        }
        assert found.front
        assert min(row.transfer_bytes or 0 for row in measured) == min(
            row.transfer_bytes or 0 for row in found.front
        )
        picked = found.picked
        assert picked is not None
        assert picked.result is not None
        assert picked.result.drop <= 1
        assert picked.result.size_bytes == min(
            row.result.size_bytes for row in measured if row.result is not None and row.result.drop <= 1
        )
        assert found.package == Path(recipe.out) / picked.model / "1"
        assert not list(scratch.iterdir())
        shares = [share for _, share in heard]
        assert shares == sorted(shares)
        assert ("4 of 4 trials", pytest.approx(0.85)) in heard
        assert heard[-1] == ("done", 1.0)

    @pytest.mark.slow
    def test_the_package_is_that_of_a_build_with_the_latency_measured_alone(
        self, folder: Path, recipe: Recipe, tmp_path: Path
    ) -> None:
        only = dataclasses.replace(recipe, precision=("dynamic",))
        found = sweep([folder / "cnn.onnx"], only, pick="drop<=3pt, fastest", jobs=1)
        assert found.package is not None
        manifest = read_manifest(found.package)
        built = convert(
            folder / "cnn.onnx", version="1", precision=["dynamic"], data=only.data.path, out=tmp_path / "built"
        ).manifest

        assert {variant.file for variant in manifest.variants} == {variant.file for variant in built.variants}
        assert manifest.metadata["sweep"] == {"trial": "onnx dynamic", "pick": "drop<=3pt, fastest"}
        assert manifest.metadata["evaluation"]["max_drop"] == 3
        measured = {row.sha256: row.latency_ms for row in found.rows}
        for variant in manifest.variants:
            if "latency_ms" in variant.metrics:
                assert variant.metrics["latency_ms"] == pytest.approx(
                    measured[variant.file.kept_sha256], abs=1e-3
                )
            assert plain_blob(found.package, variant.file, tmp_path / "plain").is_file()
        report = json.loads((found.package / "report.json").read_text())
        assert [row["latency_ms"] for row in report["variants"] if row["packaged"]] == [
            variant.metrics.get("latency_ms") for variant in manifest.variants
        ]
        assert not any(row["latencies_ms"] for row in report["variants"])
        assert report["gate"]["max_drop"] == 3
        assert report["recipe"] == manifest.metadata["recipe"]
        assert report["recipe"]["gate"] == {"max_drop": 3}
        assert "at most 3 points lost" in (found.package / "report.html").read_text()

    def test_what_no_result_meets_packages_nothing(self, folder: Path, recipe: Recipe, scratch: Path) -> None:
        only = dataclasses.replace(recipe, precision=("fp32",))
        found = sweep([folder / "cnn.onnx"], only, pick="size<=10B, fastest", jobs=1)
        assert found.unmet.startswith("No result meets size<=10B")
        assert [row.result is not None for row in found.rows] == [True]
        assert found.picked is None
        assert not Path(recipe.out).exists()
        assert not list(scratch.iterdir())

    def test_a_bad_pick_is_told_before_anything_runs(self, folder: Path, recipe: Recipe) -> None:
        with pytest.raises(RequestError, match="which is not measured"):
            sweep([folder / "none.onnx"], recipe, pick="price<=3, fastest")

    def test_a_package_that_is_there_is_told_before_anything_runs(
        self, folder: Path, recipe: Recipe, scratch: Path
    ) -> None:
        (Path(recipe.out) / "cnn" / "1").mkdir(parents=True)

        def run_trial(recipe: Recipe) -> Package:
            raise AssertionError("nothing should be tried")

        with pytest.raises(RequestError, match="is there already"):
            sweep([folder / "cnn.onnx"], recipe, pick="fastest", jobs=1, builder=Builder(run_trial=run_trial))

    def test_a_failed_trial_is_a_row_with_its_reason(self, folder: Path, recipe: Recipe) -> None:
        def run_trial(recipe: Recipe) -> Package:
            if recipe.precision == ("dynamic",):
                raise ConversionError("It has nothing to quantize.")
            if recipe.precision == ("int8",):
                raise ValueError("a bug\nof two lines")
            return building.run_trial(recipe)

        found = sweep([folder / "cnn.onnx"], recipe, jobs=1, builder=Builder(run_trial=run_trial))
        assert results(found) >= {
            ("onnx fp32", ""),
            ("onnx dynamic", "It has nothing to quantize."),
            ("onnx int8 minmax", "Unexpected ValueError: a bug of two lines; --debug shows where."),
        }

    def test_a_sweep_of_failures_says_the_first(self, folder: Path, recipe: Recipe, scratch: Path) -> None:
        def run_trial(recipe: Recipe) -> Package:
            raise ConversionError("It cannot be done.")

        with pytest.raises(ConversionError, match=r"None of the 8 trials .* onnx fp32: It cannot be done\."):
            sweep([folder / "cnn.onnx"], recipe, jobs=1, builder=Builder(run_trial=run_trial))
        assert not list(scratch.iterdir())


class TestBackends:
    def test_the_callers_backend_is_used(self, folder: Path, recipe: Recipe, scratch: Path) -> None:
        pids: set[int] = set()

        def run_trial(recipe: Recipe) -> Package:
            pids.add(os.getpid())
            return building.run_trial(recipe)

        with joblib.parallel_config(backend="threading", n_jobs=2):
            only = dataclasses.replace(recipe, precision=("fp32", "dynamic"))
            found = sweep([folder / "cnn.onnx"], only, builder=Builder(run_trial=run_trial))
        assert pids == {os.getpid()}
        assert [row.result is not None for row in found.rows] == [True, True]
        assert not list(scratch.iterdir())

    @pytest.mark.parametrize(
        ("name", "said"),
        [("nonsense", "joblib has no backend 'nonsense' here"), ("multiprocessing", "hangs .*; choose loky")],
    )
    def test_a_backend_that_is_none_is_told(self, folder: Path, recipe: Recipe, name: str, said: str) -> None:
        with pytest.raises(RequestError, match=said):
            sweep([folder / "cnn.onnx"], recipe, backend=name)


class TestCommand:
    def test_the_plan_is_listed(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        command = ["sweep", str(folder / "cnn.onnx"), "--data", str(folder / "data.npz"), "--dry-run"]
        assert cli.main(command) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[:4] == ["cnn: onnx fp32", "cnn: onnx fp16", "cnn: onnx dynamic", "cnn: onnx int8 minmax"]
        assert lines[-1] == "8 trials"
        assert len(lines) == 9

    def test_a_recipe_is_kept_to_and_overruled_by_options(
        self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        recipe = tmp_path / "own"
        recipe.write_text(
            f'model = "{folder / "cnn.onnx"}"\nprecision = ["fp32", "int8"]\n'
            f'[data]\npath = "{folder / "data.npz"}"\n[evaluate]\nmetric = "f1"\n'
        )
        options = ["--precision", "fp32", "--metric", "mae", "--trust-pickle", "--weights", "w.pt"]
        options += ["--import-from", "nets", "--prune-method", "channels", "--prune", "0.5,0.8"]
        args = cli.build_parser().parse_args(["sweep", "--recipe", str(recipe), *options])

        found = command._recipe(args)

        assert (found.model, found.data.path) == (str(folder / "cnn.onnx"), str(folder / "data.npz"))
        assert (found.precision, found.evaluate.metric, found.trust_pickle) == (("fp32",), "mae", True)
        assert (found.weights, found.import_from) == ("w.pt", "nets")
        assert found.prune is not None
        assert found.prune.method == "channels"
        assert args.shares == (0.5, 0.8)
        assert cli.main(["sweep", "--recipe", str(recipe), "--precision", "fp32", "--list"]) == 0
        assert capsys.readouterr().out.splitlines() == ["cnn: onnx fp32", "1 trials"]

    def test_table_plot_and_package(
        self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        recipe = tmp_path / "recipe.toml"
        recipe.write_text(f'version = "7"\nprecision = ["dynamic"]\n[data]\npath = "{folder / "data.npz"}"\n')
        command = ["sweep", str(folder / "cnn.onnx"), "--recipe", str(recipe), "--jobs", "1"]
        command += ["--pick", "fastest", "--out", str(tmp_path / "out")]
        command += ["--plot", str(tmp_path / "sweep.html")]
        assert cli.main([*command, "--json"]) == 0
        content = json.loads(capsys.readouterr().out)
        assert content["package"] == str(tmp_path / "out/cnn/7")
        assert content["picked"] == {"model": "cnn", "trial": "onnx dynamic"}
        assert "onnx dynamic" in (tmp_path / "sweep.html").read_text()
        made = tmp_path / "out/cnn/7"
        assert "1e+09" not in (made / "report.html").read_text() + (made / "manifest.json").read_text()

    def test_what_was_found_is_shown_although_nothing_comes_of_pick_and_plot(
        self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "file").touch()
        command = ["sweep", str(folder / "cnn.onnx"), "--data", str(folder / "data.npz"), "--jobs", "1"]
        command += ["--precision", "fp32", "--pick", "size<=1B, fastest", "--json"]
        assert cli.main([*command, "--plot", str(tmp_path / "file/sweep.svg")]) == 2
        output, errors = capsys.readouterr()
        content = json.loads(output)
        assert [row["trial"] for row in content["rows"]] == ["onnx fp32"]
        assert content["unmet"].startswith("No result meets size<=1B")
        assert [line.split(":")[1].split()[0] for line in errors.splitlines()] == ["Cannot", "No"]

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ([], "No model was given"),
            (["cnn.onnx", "--to", "onnx,coreml"], "The command line: to"),
            (["cnn.onnx", "--precision", "fp32,int4"], "There is no precision 'int4'; choose among fp32"),
            (["cnn.onnx", "--plot", "sweep.png"], "written as .svg or .html"),
            (["none.onnx"], "none.onnx"),
        ],
    )
    def test_bad_input_is_one_sentence(
        self,
        folder: Path,
        arguments: list[str],
        said: str,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.chdir(folder)
        assert cli.main(["sweep", *arguments]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("whole_group", [True, False])
def test_ctrl_c_leaves_nothing(folder: Path, tmp_path: Path, whole_group: bool) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    command = ["sweep", str(folder / "cnn.onnx"), "--data", str(folder / "data.npz"), "--pick", "fastest"]
    process = subprocess.Popen(
        [sys.executable, "-m", "converters.cli", *command, "--jobs", "2", "--out", str(tmp_path / "out")],
        env={**os.environ, "TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        wait_until(lambda: list(scratch.glob("edge-sweep-*/edge-convert-*/*")), "a trial is under way")
        # A terminal sends it to everybody in the foreground, a supervisor to the command alone.
        (os.killpg if whole_group else os.kill)(process.pid, signal.SIGINT)
        output, errors = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, output) == (130, b"")
    assert errors == b"\nedge-convert: interrupted; nothing was written.\n"
    assert not list(scratch.iterdir())
    assert not (tmp_path / "out").exists()


def wait_until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, f"waited in vain until {what}"
        time.sleep(0.01)
