"""Models of every framework become packages that devices can run, from files and from live objects."""

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from edge_agent.documents.manifest import Manifest
from support import converting, probing, sources

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@dataclass(frozen=True)
class Case:
    """A source, as the words of a command, and what the manifest says of it."""

    kind: str
    words: tuple[str, ...]
    framework: str
    digest_of: str
    tools: tuple[str, ...]
    name: str


CASES = {
    "keras": Case("keras", ("cnn.keras",), "keras", "cnn.keras", ("tensorflow", "keras"), "cnn"),
    "h5": Case("keras", ("legacy.h5",), "tf-keras", "legacy.h5", ("tensorflow", "tf-keras"), "legacy"),
    "saved model": Case("keras", ("saved",), "saved-model", "saved", ("tensorflow",), "saved"),
    "pt2": Case("torch", ("cnn.pt2",), "torch", "cnn.pt2", ("torch", "litert-torch"), "cnn"),
    "factory": Case(
        "torch", ("nets:make_net", "--weights", "weights.pt"), "torch", "weights.pt", ("torch",), "make-net"
    ),
}


@pytest.fixture(scope="module", params=CASES)
def built(request: pytest.FixtureRequest, trained, tmp_path_factory: pytest.TempPathFactory):
    """Run a build of one source for both targets, and return its case, the sources' folder and the result."""
    case = CASES[request.param]
    place = trained(case.kind)
    out = tmp_path_factory.mktemp("built") / "out"
    words = [*case.words, "--data", f"{case.kind}.npz", "--precision", "fp32,int8", "--version", "1"]
    ran = converting.run(
        "build", *words, "--out", out, "--json", cwd=place, TMPDIR=str(tmp_path_factory.mktemp("tmp"))
    )
    assert (ran.code, ran.err) == (0, "")
    return case, place, json.loads(ran.out)


class TestFiles:
    def test_every_variant_passes_on_every_runtime_that_is_named(self, built) -> None:
        case, _, content = built
        manifest = probing.check(Path(content["folder"]))

        assert manifest.name == case.name
        assert [(one.engine, one.precision) for one in manifest.variants if one.engine == "tflite"] != []
        named = {(one.engine, one.precision): one.requires.runtimes for one in manifest.variants}
        assert named[("onnx", "fp32")] == named[("onnx", "int8")] == ("onnxruntime",)
        assert named[("tflite", "fp32")] == named[("tflite", "int8")] == ("ai-edge-litert", "tflite-runtime")

    def test_manifest_says_what_it_was_made_from_and_with(self, built) -> None:
        case, place, content = built
        manifest = _manifest(content)

        assert manifest.source.framework == case.framework
        assert manifest.source.sha256 == _digest(place / case.digest_of)
        assert set(manifest.metadata["tools"]) >= {*case.tools, "edge-inference-agent"}
        recipe = manifest.metadata["recipe"]
        assert recipe["precision"] == ["fp32", "int8"]
        assert recipe["data"] == {"path": f"{case.kind}.npz"}
        assert str(place) not in json.dumps(manifest.metadata)

    def test_accuracy_is_told_before_and_after(self, built) -> None:
        _, _, content = built
        manifest = _manifest(content)

        assert manifest.metadata["float"]["accuracy"] >= 0.95
        assert manifest.metadata["evaluation"]["samples"] == 60
        assert all(one.metrics["accuracy"] >= 0.94 for one in manifest.variants)

    def test_signature_has_the_model_s_own_names(self, built) -> None:
        case, _, content = built
        manifest = _manifest(content)

        shape = (-1, 12, 12, 1) if case.kind == "keras" else (-1, 1, 12, 12)
        (given,), (answered,) = manifest.inputs, manifest.outputs
        assert (given.name, given.datatype, given.shape) == ("image", "FP32", shape)
        assert (answered.datatype, answered.shape) == ("FP32", (-1, 4))


class TestScikitLearn:
    def test_forest_and_its_warning(self, trained, tmp_path: Path, workplace: Path) -> None:
        place = trained("sklearn")
        words = [place / "forest.joblib", "--trust-pickle", "--data", place / "sklearn.npz", "--out", "out"]

        ran = converting.run("build", *words, "--version", "1", cwd=workplace)

        assert (ran.code, ran.err) == (0, "")
        assert "- forest.joblib was loaded with --trust-pickle: whatever code was in it has run" in ran.out
        manifest = probing.check(workplace / "out/forest/1")
        assert manifest.source.framework == "scikit-learn"
        assert manifest.source.sha256 == _digest(place / "forest.joblib")
        assert [one.engine for one in manifest.variants] == ["onnx"]
        assert [one.name for one in manifest.outputs] == ["probabilities", "label"]
        assert manifest.metadata["float"]["accuracy"] >= 0.9
        assert manifest.metadata["tools"].keys() >= {"scikit-learn", "skl2onnx"}

    def test_pickle_is_not_loaded_by_itself(self, trained, workplace: Path) -> None:
        said = converting.refused(trained("sklearn") / "forest.joblib", cwd=workplace)
        assert "give --trust-pickle if you made it" in said


LIVE = """
import json, sys
from pathlib import Path
import numpy as np
from converters import convert
from support import convertible

kind, place, out = sys.argv[1:]
drawn, unseen = convertible.images(60, seed=1), convertible.images(40, seed=2)
steps = []

def inputs(images):
    shapes = {"keras": (-1, 12, 12, 1), "torch": (-1, 1, 12, 12), "sklearn": (-1, 144)}
    return images.pixels.reshape(shapes[kind])

def share_right(outputs, targets):
    '''A metric of the caller's own.'''
    first = next(iter(outputs.values()))
    return float((first.argmax(-1) == targets).mean())

def model():
    if kind == "keras":
        import keras
        return keras.models.load_model(Path(place, "cnn.keras"))
    if kind == "torch":
        import torch
        sys.path.insert(0, place)
        import nets
        net = nets.make_net()
        net.load_state_dict(torch.load(Path(place, "weights.pt")))
        return net
    import joblib
    return joblib.load(Path(place, "logistic.joblib"))

package = convert(
    model(),
    data=(inputs(drawn), drawn.classes),
    evaluation=lambda: (inputs(unseen), unseen.classes),
    metric=share_right,
    precision=["fp32"] if kind == "sklearn" else ["fp32", "dynamic"],
    max_drop=5,
    version="1",
    out=out,
    progress=lambda step, share: steps.append(step),
)
print(json.dumps({"folder": str(package.folder), "steps": steps}))
"""


@pytest.mark.parametrize(
    ("kind", "formats", "name"),
    [
        ("keras", {"onnx", "tflite"}, "cnn"),
        ("torch", {"onnx", "tflite"}, "net"),
        ("sklearn", {"onnx"}, "logisticregression"),
    ],
)
def test_live_objects(kind: str, formats: set[str], name: str, trained, workplace: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIVE, kind, str(trained(kind)), "out"],
        capture_output=True,
        text=True,
        cwd=workplace,
        env=sources.environment(TMPDIR=str(workplace.parent / "tmp")),
        timeout=300,
    )

    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    manifest = probing.check(workplace / content["folder"])
    assert manifest.name == name
    assert {one.engine for one in manifest.variants} == formats
    evaluation = manifest.metadata["evaluation"]
    assert (evaluation["metric"], evaluation["samples"]) == ("share_right", 40)
    assert manifest.metadata["float"]["share_right"] >= 0.85
    assert all("share_right" in one.metrics for one in manifest.variants)
    assert content["steps"][0] == "read the data"
    assert content["steps"][-1] == "done"


def _manifest(content: dict[str, str]) -> Manifest:
    return Manifest.model_validate_json(Path(content["folder"], "manifest.json").read_bytes())


def _digest(path: Path) -> str:
    """Return a file's digest, or a folder's: of the names and digests of its files, in order."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    digest = hashlib.sha256()
    for one in sorted(one for one in path.rglob("*") if one.is_file()):
        digest.update(f"{one.relative_to(path)}\0{_digest(one)}\n".encode())
    return digest.hexdigest()
