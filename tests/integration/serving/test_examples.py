"""The examples for apps, built and run as their README says, against a real serving process."""

import dataclasses
import shutil
import subprocess
import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from onnx import helper

from edge_agent.documents.plan import StatePair
from support.models import affine_onnx
from support.serving import ServingProcess, save_onnx, version_plan
from support.speech import SILERO, recording, write_wav

APPS = Path(__file__).parents[3] / "examples/apps"
PROGRAMS = ("c", "node", "python", "shell", "raw")


@dataclass(frozen=True, slots=True)
class Examples:
    """The examples, ready to run."""

    socket: str
    binary: Path
    folder: Path

    def run(self, program: str, model: str, *numbers: str) -> subprocess.CompletedProcess[str]:
        raw = self.folder / "row.raw"
        raw.write_bytes(array("f", map(float, numbers)).tobytes())
        words = {
            "c": [str(self.binary), self.socket, model, "x", *numbers],
            "node": [found("node"), str(APPS / "infer.mjs"), self.socket, model, "x", *numbers],
            "python": [sys.executable, str(APPS / "infer.py"), self.socket, model, *numbers],
            "shell": [str(APPS / "infer.sh"), self.socket, model, "x", *numbers],
            "raw": [str(APPS / "raw.sh"), self.socket, model, "x", "FP32", f"1,{len(numbers)}", str(raw)],
        }[program]
        return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


def found(program: str) -> str:
    """Return where a program is; .ci/run installs what these tests need."""
    path = shutil.which(program)
    assert path is not None, f"{program} is not installed; .ci/run installs what the tests need"
    return path


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Examples]:
    folder = tmp_path_factory.mktemp("examples")
    binary = folder / "infer"
    flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([found("gcc"), *flags, "-o", str(binary), str(APPS / "infer.c")], check=True, timeout=60)
    found("curl")
    with ServingProcess(folder / "serving") as serving:
        tensor = ("FP32", ["n", "m"])
        node = helper.make_node("Identity", ["x"], ["y"])
        same = save_onnx(folder / "same.onnx", [node], {"x": tensor}, {"y": tensor})
        serving.apply(
            version_plan(affine_onnx(folder / "m.onnx", 2.0), model="model", version="7"),
            version_plan(same, model="same"),
        )
        yield Examples(str(serving.path), binary, folder)


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("c", ['"model_version":"7"', "3\n4\n-6\n"]),
        ("node", ["model 7: y [1,3] = 3 4 -6\n"]),
        ("python", ["model 7: y [1, 3] = [ 3.  4. -6.]\n"]),
        ("shell", ['"model_version":"7"', '"data":[3.0,4.0,-6.0]']),
        ("raw", ['"model_version":"7"', '"data":[3.0,4.0,-6.0]']),
    ],
)
def test_each_example_prints_the_answer(examples: Examples, program: str, says: list[str]) -> None:
    done = examples.run(program, "model", "1.5", "2", "-3")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for part in says:
        assert part in done.stdout


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize(("model", "numbers", "says"), [("nothing", 3, "nothing"), ("model", 2, "[1, 2]")])
def test_each_example_tells_a_refusal(
    examples: Examples, program: str, model: str, numbers: int, says: str
) -> None:
    done = examples.run(program, model, *["1"] * numbers)
    assert done.returncode != 0
    assert says in done.stdout + done.stderr


@pytest.mark.parametrize("program", PROGRAMS)
def test_each_example_fails_without_an_agent(examples: Examples, program: str) -> None:
    nowhere = Examples("/nowhere/infer.sock", examples.binary, examples.folder)
    done = nowhere.run(program, "model", "1")
    assert done.returncode != 0
    assert done.stderr


@pytest.mark.parametrize("program", ["c", "node"])
def test_answers_that_come_in_many_pieces_are_read_whole(examples: Examples, program: str) -> None:
    numbers = [str(number) for number in range(100_000)]
    done = examples.run(program, "same", *numbers)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-100_000:] == numbers


def test_the_readme_names_every_example() -> None:
    said = (APPS / "README.md").read_text()
    assert all(path.name in said for path in APPS.glob("*.*") if path.name != "README.md")


def test_the_example_for_speech_hears_it(tmp_path: Path) -> None:
    plan = dataclasses.replace(version_plan(SILERO, "vad"), state=(StatePair("state", "stateN"),))
    with ServingProcess(tmp_path / "serving") as serving:
        serving.apply(plan)
        command = [sys.executable, str(APPS / "vad.py"), str(serving.path), "vad"]
        heard = subprocess.run(
            [*command, str(write_wav(tmp_path / "call.wav"))],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    likely = [float(line.split()[2]) for line in heard.stdout.splitlines()]
    assert len(likely) == len(recording()) // 512
    assert max(likely) > 0.9 > 0.1 > min(likely)
