"""The examples' recipes become packages that answer raw pixels and samples; builds are reproducible."""

import json
import os
import subprocess
import sys
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters import cli
from converters.package import plain_blob, read_manifest
from edge_agent.documents.settings import EngineSettings
from edge_agent.engines import base
from support import convertible, probing, processable, sources

EPOCH = "1767225600"


def answer(folder: Path, precision: str, engine: str, **inputs: Any) -> dict[str, Any]:
    """Run a variant of a package on samples."""
    manifest = read_manifest(folder)
    variant = next(one for one in manifest.variants if (one.engine, one.precision) == (engine, precision))
    model = plain_blob(folder, variant.file, Path("unpacked"))
    return base.find(engine).load(model, EngineSettings()).run(inputs)


def built(capfd: pytest.CaptureFixture[str], *words: object) -> Path:
    code = cli.main(["build", *map(str, words), "--json"])
    out, err = capfd.readouterr()
    assert (code, err) == (0, ""), err
    return Path(json.loads(out)["folder"])


class TestSounds:
    @pytest.fixture
    def recipe(self, workplace: Path, capfd: pytest.CaptureFixture[str]) -> Path:
        """Copy the recipe beside the model and the data that the example's script makes."""
        processable.sounds.main(workplace / "sounds")
        capfd.readouterr()
        target = workplace / "sounds/audio.toml"
        target.write_bytes((processable.EXAMPLES / "audio.toml").read_bytes())
        return target

    @pytest.mark.slow
    def test_package_answers_raw_samples_with_a_name(self, recipe: Path, capfd) -> None:
        folder = built(capfd, recipe)
        manifest = probing.check(folder)

        assert [(one.name, one.datatype) for one in manifest.inputs] == [("sound", "INT16")]
        assert [one.name for one in manifest.outputs] == ["scores", "class", "label"]
        assert manifest.labels == ("tone", "noise", "clicks")
        assert manifest.metadata["float"]["accuracy"] >= 0.95
        samples, kinds = processable.sounds.sounds(20, seed=9)
        for precision in ("fp32", "int8"):
            given = answer(folder, precision, "onnx", sound=samples)
            names = [manifest.labels[kind].encode() for kind in kinds]
            assert np.mean([got == name for got, name in zip(given["label"], names, strict=True)]) >= 0.9
            np.testing.assert_allclose(given["scores"].sum(axis=1), 1, atol=0.05)

    def test_files_of_another_rate_are_refused(self, recipe: Path, capfd) -> None:
        for index in range(3):
            path = recipe.parent / f"wav/{index}.wav"
            path.parent.mkdir(exist_ok=True)
            with wave.open(str(path), "wb") as file:
                file.setparams((1, 2, 44100, 0, "NONE", ""))
                file.writeframes(bytes(2000))
        code = cli.main(["build", str(recipe), "--data", str(path.parent)])
        out, err = capfd.readouterr()
        assert code == 2, out
        assert "The .wav files have 44100 Hz, preprocess.audio.rate_hz is 16000; resample" in err

    def test_flags_win_over_the_recipe(self, recipe: Path, capfd) -> None:
        folder = built(capfd, recipe, "--precision", "fp32", "--name", "other", "--version", "7", "--out", "o")
        manifest = read_manifest(folder)

        assert str(folder) == "o/other/7"
        assert [one.precision for one in manifest.variants] == ["fp32"]
        # What no flag says stays as the recipe has it.
        assert manifest.labels == ("tone", "noise", "clicks")
        assert manifest.metadata["recipe"]["name"] == "other"


class TestImages:
    def test_example_takes_pixels_of_any_size(self, workplace: Path, capfd) -> None:
        """The face detector has to be fetched; a model that answers what it is given stands in for it."""
        processable.tflite_mirror(workplace / "mirror.tflite", (1, 128, 128, 3))
        folder = built(capfd, _with_model(workplace, "mirror.tflite"), "--precision", "fp32", "--samples", "10")
        manifest = probing.check(folder)

        (given,) = manifest.inputs
        assert (given.datatype, given.shape) == ("UINT8", (1, -1, -1, 3))
        pixels = np.random.default_rng(0).integers(0, 256, (1, 128, 128, 3)).astype(np.uint8)
        seen = answer(folder, "fp32", "tflite", given=pixels)["seen"]
        np.testing.assert_allclose(seen, pixels / 127.5 - 1, atol=1e-5)

    @pytest.mark.slow
    @pytest.mark.timeout(400)
    @pytest.mark.parametrize("kind", ["keras", "torch"])
    def test_trained_model_takes_pixels_in_both_formats(
        self, kind: str, trained, workplace: Path, capfd
    ) -> None:
        drawn = convertible.images(80, seed=1)
        pixels = np.round(255 * drawn.pixels).astype(np.uint8)[..., None]
        np.savez("pixels.npz", image=pixels, y=drawn.classes)
        recipe = _RECIPE.format(**_source(trained(kind), kind))
        (workplace / "recipe.toml").write_text(recipe + (_SHAPE if kind == "torch" else ""))

        folder = built(capfd, "recipe.toml")

        manifest = probing.check(folder)
        assert {one.engine for one in manifest.variants} == {"onnx", "tflite"}
        assert [one.datatype for one in manifest.inputs] == ["UINT8"]
        assert [one.name for one in manifest.outputs][1:] == ["class"]
        assert manifest.metadata["float"]["accuracy"] >= 0.95
        for engine in ("onnx", "tflite"):
            given = [answer(folder, "int8", engine, image=one[None])["class"][0] for one in pixels[:10]]
            assert np.mean(given == drawn.classes[:10]) >= 0.9


_RECIPE = """
model = "{model}"
weights = "{weights}"
import_from = "{folder}"
to = ["onnx", "tflite"]
precision = ["fp32", "int8"]
[data]
path = "pixels.npz"
[preprocess.image]
channels = "gray"
height = 12
width = 12
[postprocess]
softmax = true
argmax = true
[gate]
max_drop = 5
"""
_SHAPE = """
# The pixels do not tell what the module itself takes.
[generate.shapes]
image = [1, 1, 12, 12]
"""


def _source(place: Path, kind: str) -> dict[str, str]:
    if kind == "keras":
        return {"model": str(place / "cnn.keras"), "weights": "", "folder": "."}
    return {"model": "nets:make_net", "weights": str(place / "weights.pt"), "folder": str(place)}


def _with_model(folder: Path, model: str) -> Path:
    lines = (processable.EXAMPLES / "image.toml").read_text().splitlines()
    target = folder / "image.toml"
    target.write_text("\n".join(f'model = "{model}"' if one.startswith("model") else one for one in lines))
    return target


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["keras", "torch"])
def test_two_processes_write_the_same_package(kind: str, trained, workplace: Path) -> None:
    place = trained(kind)
    model = "cnn.keras" if kind == "keras" else "cnn.pt2"
    words = [place / model, "--data", place / f"{kind}.npz", "--precision", "fp32,int8", "--version", "1"]
    packages = []
    for seed in ("1", "2"):
        environment = sources.environment(
            SOURCE_DATE_EPOCH=EPOCH, PYTHONHASHSEED=seed, TMPDIR=str(workplace.parent / "tmp")
        )
        done = subprocess.run(
            [sys.executable, "-m", "converters.script", "build", *map(str, words), "--out", seed],
            capture_output=True,
            text=True,
            env=environment,
        )
        assert (done.returncode, done.stderr) == (0, "")
        folder = workplace / seed / "cnn/1"
        packages.append(
            {os.fspath(one.relative_to(folder)): one.read_bytes() for one in folder.rglob("*") if one.is_file()}
        )

    first, second = packages
    assert {"manifest.json", "report.html", "report.json"} <= first.keys()
    assert {name for name in first.keys() | second.keys() if first.get(name) != second.get(name)} == set()
