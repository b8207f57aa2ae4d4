"""What Keras models become does not depend on the process, and nothing of it is heard or left behind."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[2]
MAKE = """
import sys
from pathlib import Path
from converters.frameworks import keras, tf_keras
from support.keras_zoo import made

framework, *sources = sys.argv[1:]
library = tf_keras.library() if framework == "tf-keras" else keras.library()
for source in sources:
    model = made(library, Path(source).stem)
    model.export(source) if framework == "saved-model" else model.save(source)
"""
SCRIPT = """
import os, sys
from pathlib import Path
import numpy as np
from converters.frameworks import registry
from converters.terms import Origin
from converters.frameworks.base import Training
from converters.prune.settings import PruneSettings

framework, out, detour, *sources = sys.argv[1:]
module = registry.find(framework)
for source in sources:
    model = module.load(Origin(framework, source))
    if detour == "yes":
        # Counters of names and functions move on.
        module.export(model, "onnx", Path(out, "detour"), {})
        module.export(model, "tflite", Path(out, "detour"), {})
        os.unlink(Path(out, "detour"))
    for target in ("tflite", "onnx"):
        module.export(model, target, Path(out, f"{Path(source).stem}.{target}"), {})
if framework != "saved-model":
    model = module.load(Origin(framework, sources[0]))
    rng = np.random.default_rng(1)
    value = rng.normal(size=(64, *model.inputs[0].shape[1:])).astype(np.float32)
    training = Training({module.input_names(model)[0]: value}, rng.integers(0, 4, 64))
    settings = PruneSettings(end_step=6, frequency=2)
    pruned = module.prune(model, training, settings, lambda share: None)
    module.export(pruned.model, "onnx", Path(out, "pruned.onnx"), {})
"""


def run(script: str, *arguments: object, seed: str, temporary: Path) -> subprocess.CompletedProcess[str]:
    temporary.mkdir()
    environment = {
        **os.environ,
        "PYTHONHASHSEED": seed,
        "TMPDIR": str(temporary),
        "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]),
    }
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=110)


def converted(framework: str, sources: list[Path], out: Path, *, detour: str, seed: str) -> dict[str, str]:
    """Convert in a process of its own, which must be silent, and return the digests of what it wrote."""
    out.mkdir()
    temporary = out.with_suffix(".tmp")
    done = run(SCRIPT, framework, out, detour, *sources, seed=seed, temporary=temporary)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(temporary.iterdir()) == []
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.iterdir())}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("framework", "names"),
    [
        ("keras", ["conv1d.keras", "gru.keras", "attention.keras"]),
        ("tf-keras", ["conv1d.h5", "gru.h5", "attention.h5"]),
        ("saved-model", ["several", "attention"]),
    ],
)
def test_two_processes_write_the_same_bytes_in_silence(
    framework: str, names: list[str], tmp_path: Path
) -> None:
    sources = [tmp_path / name for name in names]
    made = run(MAKE, framework, *sources, seed="0", temporary=tmp_path / "made.tmp")
    assert made.returncode == 0, made.stderr

    first = converted(framework, sources, tmp_path / "first", detour="no", seed="1")
    second = converted(framework, sources, tmp_path / "second", detour="yes", seed="2")

    assert first == second
    assert len(first) == 2 * len(names) + (framework != "saved-model")
