"""The same model gives the same bytes in another process, in whose sets everything lies in another order."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

PYTORCH = """
import sys
from pathlib import Path
from converters.frameworks import torch as framework
from converters.frameworks.base import Training
from converters.prune.settings import PruneSettings
from support import torch_models

folder = Path(sys.argv[1])
images, classes = torch_models.stripes(32)
example = {"image": images[:2]}
model = torch_models.seeded(torch_models.Cnn)
for method in ("magnitude", "channels"):
    settings = PruneSettings(method=method, end_step=3, frequency=1, batch_size=8)
    small = framework.prune(model, Training({"image": images}, classes), settings, lambda share: None).model
    framework.export(small, "onnx", folder / f"{method}.onnx", example)
for target_format in ("onnx", "tflite"):
    framework.export(model, target_format, folder / f"cnn.{target_format}", example)
    recurrent = torch_models.seeded(torch_models.Recurrent)
    samples = {"samples": torch_models.floats(2, 5, 3)}
    framework.export(recurrent, target_format, folder / f"gru.{target_format}", samples)
"""

SKLEARN = """
import sys
from pathlib import Path
from sklearn.datasets import load_digits
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from converters.frameworks import sklearn as framework

pixels, numbers = load_digits(return_X_y=True)
models = {
    "forest": RandomForestClassifier(5, random_state=0),
    "boosting": HistGradientBoostingClassifier(max_iter=3, random_state=0),
    "pipeline": make_pipeline(StandardScaler(), LogisticRegression(max_iter=200)),
    "svc": SVC(),
}
for name, model in models.items():
    framework.export(model.fit(pixels[:200], numbers[:200] % 2), "onnx", Path(sys.argv[1], f"{name}.onnx"), {})
"""


def run(script: str, folder: Path, seed: str) -> dict[str, bytes]:
    folder.mkdir()
    subprocess.run(
        [sys.executable, "-c", script, str(folder)],
        check=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "PYTHONHASHSEED": seed},
    )
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize(("script", "count"), [(PYTORCH, 6), (SKLEARN, 4)], ids=["torch", "scikit-learn"])
def test_two_processes_write_the_same_bytes(script: str, count: int, tmp_path: Path) -> None:
    first = run(script, tmp_path / "first", "1")
    second = run(script, tmp_path / "second", "2")

    assert len(first) == count
    assert {name for name in first if first[name] != second[name]} == set()
