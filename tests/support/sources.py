"""Trained models of every framework, made in child processes: `python -m support.sources KIND FOLDER`.

All tell the four kinds of `convertible.images` apart. Keras takes them as [n, 12, 12, 1], PyTorch as
[n, 1, 12, 12], scikit-learn as [n, 144].
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from support import convertible

ROOT = Path(__file__).resolve().parents[2]
COUNT = 240
NETS = '''
import torch
from torch import nn


class Net(nn.Module):
    """A CNN of images [n, 1, 12, 12] to scores [n, 4]."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 16, 3)
        self.pool = nn.MaxPool2d(2)
        self.hidden = nn.Linear(16 * 25, 32)
        self.scores = nn.Linear(32, 4)

    def forward(self, image):
        pooled = self.pool(torch.relu(self.conv(image)))
        return self.scores(torch.relu(self.hidden(torch.flatten(pooled, 1))))


def make_net():
    return Net()


def one_number():
    """Not a model."""
    return 1


class Sorting(nn.Module):
    """Uses an operator that neither format has."""

    def forward(self, image):
        return torch.linalg.eigvalsh(image[:, 0])


class Long(nn.Module):
    """Takes series of any length."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 4, 3, padding=1)

    def forward(self, series):
        return self.conv(series)


def many_losses(targets, outputs):
    return nn.functional.cross_entropy(outputs, targets)
'''


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a child that imports the project and the tests' own modules."""
    return {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", **more}


def make(kind: str, folder: Path) -> None:
    """Write the models of a framework into a folder, in a child process."""
    command = [sys.executable, "-m", "support.sources", kind, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=110)
    assert done.returncode == 0, done.stderr


def keras(folder: Path) -> None:
    """Write `cnn.keras`, `saved/`, and with legacy Keras `legacy.h5`."""
    from converters.frameworks import keras, tf_keras

    model = _fitted(keras.library())
    model.save(folder / "cnn.keras")
    model.export(str(folder / "saved"), verbose=False)
    _fitted(tf_keras.library()).save(folder / "legacy.h5")


def torch(folder: Path) -> None:
    """Write `nets.py`, the state dict `weights.pt`, and the program `cnn.pt2`, whose batch is free."""
    (folder / "nets.py").write_text(NETS)
    sys.path.insert(0, str(folder))
    import nets
    import torch

    torch.manual_seed(0)
    model, drawn = nets.make_net(), convertible.images(COUNT, seed=0)
    images, classes = torch.tensor(drawn.pixels[:, None]), torch.tensor(drawn.classes)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), classes).backward()
        optimizer.step()
    torch.save(model.eval().state_dict(), folder / "weights.pt")
    batch = torch.export.Dim("batch")
    program = torch.export.export(model, (images[:2],), dynamic_shapes=({0: batch},))
    torch.export.save(program, folder / "cnn.pt2")


def sklearn(folder: Path) -> None:
    """Write `forest.joblib` and `logistic.joblib`."""
    import joblib
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression

    drawn = convertible.images(COUNT, seed=0)
    pixels = drawn.pixels.reshape(COUNT, -1)
    joblib.dump(RandomForestClassifier(20, random_state=0).fit(pixels, drawn.classes), folder / "forest.joblib")
    joblib.dump(LogisticRegression(max_iter=500).fit(pixels, drawn.classes), folder / "logistic.joblib")


def data(folder: Path) -> None:
    """Write `keras.npz`, `torch.npz` and `sklearn.npz`, images that no model was trained with."""
    drawn = convertible.images(120, seed=1)
    np.savez(folder / "keras.npz", image=drawn.pixels[..., None], y=drawn.classes)
    np.savez(folder / "torch.npz", image=drawn.pixels[:, None], y=drawn.classes)
    np.savez(folder / "sklearn.npz", input=drawn.pixels.reshape(120, -1), y=drawn.classes)


def _fitted(keras: object) -> object:
    drawn = convertible.images(COUNT, seed=0)
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((12, 12, 1), name="image"),
            layers.Conv2D(16, 3, activation="relu", name="conv"),
            layers.MaxPooling2D(name="pool"),
            layers.Flatten(name="flat"),
            layers.Dense(32, activation="relu", name="hidden"),
            layers.Dense(4, name="scores"),
        ],
        name="cnn",
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(5e-3), loss)
    model.fit(drawn.pixels[..., None], drawn.classes, epochs=12, verbose=0)
    return model


if __name__ == "__main__":
    {"keras": keras, "torch": torch, "sklearn": sklearn, "data": data}[sys.argv[1]](Path(sys.argv[2]))
