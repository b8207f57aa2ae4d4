"""`edge-agent infer` on large .npy files, images, sounds and text, against a real serving process."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from onnx import helper
from PIL import Image

from edge_agent.documents.settings import HttpSettings
from support.agent import wait_until
from support.serving import ServingProcess, save_onnx, version_plan

EDGE_AGENT = str(Path(sys.executable).parent / "edge-agent")
MAX_EXTRA_BYTES = 50 * 2**20
LARGE = (75_000, 1024)
"""FP32: 300 MB."""


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingProcess]:
    folder = tmp_path_factory.mktemp("large")
    models = {
        "max": (("ReduceMax", {"axes": [1], "keepdims": 0}), ("FP32", ["n", 1024]), ("FP32", ["n"])),
        "same": (("Identity", {}), ("FP32", ["n", 2]), ("FP32", ["n", 2])),
        "one": (("Neg", {}), ("FP32", [1, 3]), ("FP32", [1, 3])),
        "sum": (("ReduceSum", {"keepdims": 1}), ("FP32", ["n", 2]), ("FP32", [1, 1])),
        "pixels": (("Identity", {}), ("UINT8", ["n", "h", "w", 3]), ("UINT8", ["n", "h", "w", 3])),
        "sound": (("Identity", {}), ("INT16", ["n", 4]), ("INT16", ["n", 4])),
        "words": (("Identity", {}), ("BYTES", ["n"]), ("BYTES", ["n"])),
    }
    plans = []
    for name, ((operator, attributes), x, y) in models.items():
        node = helper.make_node(operator, ["x"], ["y"], **attributes)
        path = save_onnx(folder / f"{name}.onnx", [node], {"x": x}, {"y": y})
        plans.append(version_plan(path, model=name))
    with ServingProcess(folder, HttpSettings(max_body_bytes=512 * 2**10)) as process:
        # The limit on bodies is smaller than a slice, so that slices have to be halved.
        process.apply(*plans)
        yield process


def infer(serving: ServingProcess, *words: str) -> subprocess.CompletedProcess[str]:
    command = [EDGE_AGENT, "infer", *words, "--socket", str(serving.path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def answer(serving: ServingProcess, *words: str) -> Any:
    done = infer(serving, *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


MEASURED = """
import re, sys
from edge_agent.cli.main import main
code = main(sys.argv[1:])
print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1], file=sys.stderr)
sys.exit(code)
"""
"""The command, telling the most memory that it had; wait4 may tell that of the process that started it."""


def peak_bytes(serving: ServingProcess, *words: str) -> int:
    """Return the most memory that the command was resident with."""
    command = [sys.executable, "-c", MEASURED, "infer", *words, "--socket", str(serving.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stderr) * 1024


def peak_of(pid: int) -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def sparse(path: Path, shape: tuple[int, ...]) -> "np.memmap[Any, Any]":
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)


def test_a_large_file_takes_little_memory_in_both_processes(serving: ServingProcess, tmp_path: Path) -> None:
    large = sparse(tmp_path / "large.npy", LARGE)
    large[70_000, 3] = 5
    large.flush()
    sparse(tmp_path / "small.npy", (1, 1024))
    out = tmp_path / "out.npy"
    usual = peak_bytes(serving, "max", "--input", str(tmp_path / "small.npy"))
    before = peak_of(serving.process.pid)
    taken = peak_bytes(serving, "max", "--input", str(tmp_path / "large.npy"), "--save", str(out))
    assert taken - usual < MAX_EXTRA_BYTES
    assert peak_of(serving.process.pid) - before < MAX_EXTRA_BYTES
    found = np.load(out)
    assert found.shape == (75_000,)
    assert np.flatnonzero(found).tolist() == [70_000]


def test_large_outputs_take_little_memory_too(serving: ServingProcess, tmp_path: Path) -> None:
    given = sparse(tmp_path / "in.npy", (15_000_000, 2))
    given[::1_000_001] = 1.5
    given.flush()
    out = tmp_path / "out.npy"
    usual = peak_bytes(serving, "same", "--zeros")
    before = peak_of(serving.process.pid)
    taken = peak_bytes(serving, "same", "--input", str(tmp_path / "in.npy"), "--save", str(out))
    assert taken - usual < MAX_EXTRA_BYTES
    assert peak_of(serving.process.pid) - before < MAX_EXTRA_BYTES
    assert np.array_equal(np.load(out, mmap_mode="r"), given)


def test_slices_give_what_the_whole_gives(serving: ServingProcess, tmp_path: Path) -> None:
    rows = np.random.default_rng(1).normal(size=(1001, 2))
    np.save(tmp_path / "in.npy", np.asfortranarray(rows))
    out = tmp_path / "folder"
    told = answer(serving, "same", "--input", str(tmp_path / "in.npy"), "--rows", "10", "--save", str(out))
    assert (told["rows"], told["slices"], told["model_version"]) == (1001, 101, "1")
    assert told["outputs"][0]["file"] == str(out / "y.npy")
    assert told["outputs"][0]["mean"] == pytest.approx(rows.mean())
    assert np.array_equal(np.load(out / "y.npy"), rows.astype(np.float32))


def test_a_model_of_one_row_is_asked_row_by_row(serving: ServingProcess, tmp_path: Path) -> None:
    rows = np.arange(15, dtype=np.float32).reshape(5, 3)
    np.save(tmp_path / "in.npy", rows)
    done = infer(serving, "one", "--input", str(tmp_path / "in.npy"), "--save", str(tmp_path / "out.npy"))
    assert done.returncode == 0, done.stderr
    assert "5 rows in 5 slices" in done.stdout
    assert np.array_equal(np.load(tmp_path / "out.npy"), -rows)


def test_small_answers_are_saved_whole(serving: ServingProcess, tmp_path: Path) -> None:
    told = answer(serving, "same", "--zeros", "--save", str(tmp_path / "y.npy"))
    assert told["outputs"][0]["file"] == str(tmp_path / "y.npy")
    assert np.load(tmp_path / "y.npy").tolist() == [[0, 0]]


def test_what_cannot_be_sliced_is_refused(serving: ServingProcess, tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", np.zeros((10, 2), np.float32))
    done = infer(serving, "sum", "--input", str(tmp_path / "in.npy"), "--rows", "3")
    assert done.returncode == 2
    assert "output y has not a row for each" in done.stderr
    done = infer(serving, "sum", "--zeros", "--rows", "3")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_an_error_in_the_middle_leaves_no_file(serving: ServingProcess, tmp_path: Path) -> None:
    rows = np.zeros((1000, 2))
    rows[990] = 1e300
    np.save(tmp_path / "in.npy", rows)
    done = infer(
        serving, "same", "--input", str(tmp_path / "in.npy"), "--rows", "10", "--save", str(tmp_path / "o.npy")
    )
    assert done.returncode == 2
    assert "cannot hold the given float64 values" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.npy"]


def test_an_interrupt_leaves_no_file(serving: ServingProcess, tmp_path: Path) -> None:
    given = sparse(tmp_path / "in.npy", (1_000_000, 2))
    del given
    out = tmp_path / "out"
    words = ["same", "--input", str(tmp_path / "in.npy"), "--rows", "2", "--save", str(out)]
    process = subprocess.Popen(
        [EDGE_AGENT, "infer", *words, "--socket", str(serving.path)], stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: out.exists() and list(out.iterdir()), "the output is begun")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said.strip() == ""
    assert list(out.iterdir()) == []


def test_a_terminal_sees_a_bar(serving: ServingProcess, tmp_path: Path) -> None:
    sparse(tmp_path / "in.npy", (1_000_000, 2))
    ours, theirs = pty.openpty()
    words = ["same", "--input", str(tmp_path / "in.npy"), "--rows", "10"]
    with subprocess.Popen(
        [EDGE_AGENT, "infer", *words, "--socket", str(serving.path)], stdout=subprocess.DEVNULL, stderr=theirs
    ) as process:
        seen = ""
        deadline_s = time.monotonic() + 20
        while not re.search(r"\[#*\.+\] +\d+%  .* of 7\.6 MiB", seen):
            assert time.monotonic() < deadline_s, seen
            seen += os.read(ours, 4096).decode()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    os.close(theirs)
    os.close(ours)


def test_a_version_that_goes_in_the_middle_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "serving"
    sparse(tmp_path / "in.npy", (1_000_000, 2))
    tensor = ("FP32", ["n", 2])
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    model = save_onnx(tmp_path / "m.onnx", nodes, {"x": tensor}, {"y": tensor})
    with ServingProcess(folder) as process:
        process.apply(version_plan(model, version="1"))
        words = ["m", "--input", str(tmp_path / "in.npy"), "--rows", "2", "--save", str(tmp_path / "out")]
        child = subprocess.Popen(
            [EDGE_AGENT, "infer", *words, "--socket", str(process.path)], stderr=subprocess.PIPE, text=True
        )
        wait_until(lambda: (tmp_path / "out").exists() and list((tmp_path / "out").iterdir()), "it has begun")
        process.apply(version_plan(model, version="2"))
        _, said = child.communicate(timeout=30)
        assert child.returncode == 2
        assert re.search(r"Version 1 went away after \d+ of 1000000 rows; start again", said)
        assert list((tmp_path / "out").iterdir()) == []
        assert psutil.pid_exists(process.process.pid)


def test_an_image_a_sound_and_text(serving: ServingProcess, tmp_path: Path) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (3, 5, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "p.bin", "PNG")
    told = answer(serving, "pixels", "--input", str(tmp_path / "p.bin"))
    assert told["outputs"][0]["shape"] == [1, 3, 5, 3]
    assert told["outputs"][0]["data"] == pixels.ravel().tolist()
    with wave.open(str(tmp_path / "s.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(np.array([1, -2, 3], "<i2").tobytes())
    told = answer(serving, "sound", "--input", str(tmp_path / "s.wav"))
    assert told["outputs"][0]["data"] == [1, -2, 3, 0]
    assert answer(serving, "words", "--text", "a b", "--text", "c")["outputs"][0]["data"] == ["a b", "c"]
    (tmp_path / "t.txt").write_text("hello\n")
    assert answer(serving, "words", "--input", str(tmp_path / "t.txt"))["outputs"][0]["data"] == ["hello"]
    done = infer(serving, "same", "--input", str(tmp_path / "p.bin"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "edge-convert" in done.stderr
