"""Ctrl-C and SIGTERM at every long step leave no file and no process; progress is shown on a terminal alone."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from support import convertible, sources

DEADLINE_S = 100.0
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


class Terminal:
    """A command whose standard error is a terminal; a context manager that ends it."""

    def __init__(self, *words: object, cwd: Path, first_on_path: Path | None = None) -> None:
        self.temporary = cwd.parent / "tmp"
        ours, theirs = pty.openpty()
        self._terminal = ours
        self.written = b""
        env = sources.environment(TMPDIR=str(self.temporary), TERM="xterm", COLUMNS="100")
        if first_on_path is not None:
            env["PYTHONPATH"] = f"{first_on_path}:{env['PYTHONPATH']}"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "converters.script", *map(str, words)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=theirs,
            cwd=cwd,
            env=env,
            start_new_session=True,
        )
        os.close(theirs)

    @property
    def shown(self) -> str:
        """What was written, without colours and movements of the cursor."""
        return _ESCAPES.sub("", self.written.decode(errors="replace"))

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        os.close(self._terminal)

    def until(self, done: Callable[[], bool]) -> None:
        """Read what is shown until something has come about."""
        end = time.monotonic() + DEADLINE_S
        while not done():
            assert time.monotonic() < end, self.shown[-2000:]
            assert self.process.poll() is None, self.shown[-2000:]
            self._read(0.02)

    def ended(self) -> int:
        """Read to the end and return the exit code."""
        end = time.monotonic() + DEADLINE_S
        while self._read(0.5) or self.process.poll() is None:
            assert time.monotonic() < end
        return self.process.wait(DEADLINE_S)

    def _read(self, wait_s: float) -> bool:
        readable, _, _ = select.select([self._terminal], [], [], wait_s)
        try:
            got = os.read(self._terminal, 65536) if readable else b""
        except OSError:
            # A terminal that nobody holds any more is an error, not the end of a file.
            return False
        self.written += got
        return bool(got)


def check_interrupted(number: signal.Signals, step: str, *words: object, cwd: Path) -> None:
    """Interrupt a build while it shows a step and has a child at work; see that nothing is left."""
    with Terminal("build", *words, "--out", "out", cwd=cwd) as terminal:
        own = psutil.Process(terminal.process.pid)
        terminal.until(lambda: step in terminal.shown and bool(own.children()))
        children = own.children(recursive=True)
        terminal.process.send_signal(number)
        code = terminal.ended()

        assert code == CODES[number]
        assert "Traceback" not in terminal.shown
        assert not list(cwd.iterdir())
        assert not list(terminal.temporary.iterdir())
        gone, alive = psutil.wait_procs(children, 10)
        assert (len(gone), alive) == (len(children), [])


BOTH = pytest.mark.parametrize("number", list(CODES))


@pytest.mark.slow
@pytest.mark.timeout(300)
class TestInterrupted:
    @BOTH
    def test_export(self, number: signal.Signals, trained, workplace: Path) -> None:
        check_interrupted(number, "export the model", trained("keras") / "cnn.keras", cwd=workplace)

    @BOTH
    def test_pruning(self, number: signal.Signals, trained, workplace: Path) -> None:
        place = trained("torch")
        words = ["nets:make_net", "--import-from", place, "--weights", place / "weights.pt", "--to", "onnx"]
        words += ["--data", place / "torch.npz", "--prune", "0.5", "--prune-steps", "6000"]
        # The bar has moved on: the model is being trained.
        check_interrupted(number, "3% prune the model", *words, cwd=workplace)

    @BOTH
    def test_calibration(self, number: signal.Signals, models, workplace: Path) -> None:
        words = [models.onnx, "--data", models.onnx_data, "--precision", "int8", "--calibration", "entropy"]
        check_interrupted(number, "make onnx int8", *words, cwd=workplace)

    @BOTH
    def test_evaluation(self, number: signal.Signals, models, workplace: Path) -> None:
        words = [models.tflite, "--samples", "100000", "--precision", "fp32"]
        check_interrupted(number, "run the source model", *words, cwd=workplace)


@pytest.mark.parametrize("module", ["numpy", "pydantic", "converters.cli"])
def test_interrupted_while_modules_are_imported(module: str, workplace: Path) -> None:
    """A module that is imported on the way gives its process Ctrl-C."""
    (workplace / "sitecustomize.py").write_text(
        "import signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}:\n"
        "            signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from converters.script import main; sys.exit(main())",
            "build",
            "m",
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{workplace}:{sources.ROOT}", "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.stderr == "\nedge-convert: interrupted; nothing was written.\n"
    assert done.returncode == 130


@pytest.mark.slow
@pytest.mark.timeout(300)
class TestProgress:
    def test_every_long_step_is_shown_on_a_terminal(self, trained, workplace: Path) -> None:
        place = trained("torch")
        words = ["nets:make_net", "--import-from", place, "--weights", place / "weights.pt", "--to", "onnx"]
        words += ["--data", place / "torch.npz", "--prune", "0.5", "--prune-steps", "20", "--max-drop", "30"]
        with Terminal("build", *words, "--precision", "fp32,int8", cwd=workplace) as terminal:
            assert terminal.ended() == 0, terminal.shown
            shown = terminal.shown

        steps = (
            "prune the model",
            "run the source model",
            "make onnx int8",
            "check onnx int8",
            "measure latency and memory",
        )
        places = [shown.find(step) for step in steps]
        assert -1 not in places, dict(zip(steps, places, strict=True))
        assert places == sorted(places)

    def test_search_is_shown(self, workplace: Path) -> None:
        from support import uneven

        drawn = convertible.images(120)
        import numpy as np

        np.savez("data.npz", image=drawn.pixels.reshape(120, -1), y=drawn.classes)
        uneven.write_onnx(workplace / "uneven.onnx", uneven.fitted())
        words = ["uneven.onnx", "--data", "data.npz", "--precision", "int8", "--search", "--max-drop", "1"]
        with Terminal("build", *words, cwd=workplace) as terminal:
            assert terminal.ended() == 0, terminal.shown
            assert "search the layers of onnx int8" in terminal.shown
