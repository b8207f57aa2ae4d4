"""What Keras models become does not depend on the process, and nothing of it is heard or left behind."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from converters.frameworks import keras, tf_keras
from converters.frameworks.silence import silenced
from support.keras_zoo import made

TESTS = Path(__file__).resolve().parents[2]
SCRIPT = """
import os, sys
from pathlib import Path
import numpy as np
from converters.frameworks import registry
from converters.frameworks.base import Origin, Training
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


def run(framework: str, sources: list[Path], out: Path, *, detour: str, seed: str) -> dict[str, str]:
    """Convert in a process of its own, which must be silent, and return the digests of what it wrote."""
    out.mkdir()
    spare = out.with_suffix(".tmp")
    spare.mkdir()
    environment = {
        **os.environ,
        "PYTHONHASHSEED": seed,
        "TMPDIR": str(spare),
        "PYTHONPATH": os.pathsep.join([str(TESTS.parent), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, framework, str(out), detour, *map(str, sources)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=110,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(spare.iterdir()) == []
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.iterdir())}


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["keras", "tf-keras", "saved-model"])
def test_two_processes_write_the_same_bytes_in_silence(framework: str, tmp_path: Path) -> None:
    library = tf_keras.library() if framework == "tf-keras" else keras.library()
    suffix = {"keras": ".keras", "tf-keras": ".h5", "saved-model": ""}[framework]
    names = ["conv1d", "gru", "attention"] if suffix else ["several", "attention"]
    sources = [tmp_path / f"{name}{suffix}" for name in names]
    with silenced():
        for name, path in zip(names, sources, strict=True):
            model = made(library, name)
            model.save(path) if suffix else model.export(path, verbose=False)

    first = run(framework, sources, tmp_path / "first", detour="no", seed="1")
    second = run(framework, sources, tmp_path / "second", detour="yes", seed="2")

    assert first == second
    assert len(first) == 2 * len(names) + bool(suffix)
