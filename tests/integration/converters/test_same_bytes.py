"""The same model gives the same bytes in another process, in whose sets everything lies in another order."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

EXPORT = """
import sys
from pathlib import Path
from converters.frameworks import torch as framework
from support import torch_models

image = {"image": torch_models.floats(2, 1, 8, 8)}
samples = {"samples": torch_models.floats(2, 5, 3)}
for target_format, name, make, example in (
    ("onnx", "cnn", torch_models.Cnn, image),
    ("tflite", "cnn", torch_models.Cnn, image),
    ("onnx", "gru", torch_models.Recurrent, samples),
):
    target = Path(sys.argv[1], f"{name}.{target_format}")
    framework.export(torch_models.seeded(make), target_format, target, example)
"""

PRUNE = """
import sys
from pathlib import Path
from converters.frameworks import torch as framework
from converters.frameworks.base import Training
from converters.prune.settings import PruneSettings
from support import torch_models

images, classes = torch_models.stripes(32)
model = torch_models.seeded(torch_models.Cnn)
for method in ("magnitude", "channels"):
    settings = PruneSettings(method=method, end_step=3, frequency=1, batch_size=8)
    small = framework.prune(model, Training({"image": images}, classes), settings, lambda share: None).model
    framework.export(small, "onnx", Path(sys.argv[1], f"{method}.onnx"), {"image": images[:2]})
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
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
            "PYTHONHASHSEED": seed,
            "OMP_NUM_THREADS": "1",
        },
    )
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("script", "count"),
    [(EXPORT, 3), (PRUNE, 2), (SKLEARN, 4)],
    ids=["torch", "pruned torch", "scikit-learn"],
)
def test_two_processes_write_the_same_bytes(script: str, count: int, tmp_path: Path) -> None:
    first = run(script, tmp_path / "first", "1")
    second = run(script, tmp_path / "second", "2")

    assert len(first) == count
    assert {name for name in first if first[name] != second[name]} == set()
