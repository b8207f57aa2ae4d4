from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from support import convertible, sources


@dataclass(frozen=True)
class Models:
    onnx: Path
    onnx_data: Path
    tflite: Path
    half_tflite: Path
    tflite_data: Path


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp("models")
    weights = convertible.fitted()
    drawn = convertible.images(120)
    np.savez(folder / "onnx.npz", image=drawn.pixels[:, None], y=drawn.classes)
    np.savez(folder / "tflite.npz", image=drawn.pixels[..., None], y=drawn.classes)
    return Models(
        convertible.write_onnx(folder / "cnn.onnx", weights),
        folder / "onnx.npz",
        convertible.write_tflite(folder / "cnn.tflite", weights),
        convertible.write_tflite(folder / "half.tflite", weights, half=True, old=True),
        folder / "tflite.npz",
    )


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function of `keras`, `torch` or `sklearn` that gives the folder with its models and data.

    They are made when they are first asked for, in child processes.
    """
    folders: dict[str, Path] = {}

    def made(kind: str) -> Path:
        if kind not in folders:
            folder = tmp_path_factory.mktemp(kind)
            sources.make("data", folder)
            sources.make(kind, folder)
            folders[kind] = folder
        return folders[kind]

    return made


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in a folder of the test's own, and check that no library dropped anything there."""
    place = tmp_path / "cwd"
    place.mkdir()
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    yield place
    assert not list(temporary.iterdir()), "temporary files were left behind"
