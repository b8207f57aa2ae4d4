"""The models of the demo, out of the packages that ship them, and Magika's labels."""

import importlib.util
import json
from pathlib import Path

MAGIKA = "models/standard_v3_3"


def magika_model() -> Path:
    """Return the path of Magika's ONNX model: input `bytes` int32 [n, 2048], output float [n, 214]."""
    return folder_of("magika") / MAGIKA / "model.onnx"


def magika_labels() -> list[str]:
    """Return Magika's 214 labels in the order of its output."""
    settings = json.loads((folder_of("magika") / MAGIKA / "config.min.json").read_text())
    return list(settings["target_labels_space"])


def face_model() -> Path:
    """Return the path of MediaPipe's face detector, which scripts/fetch-models took out of its package."""
    path = Path(__file__).resolve().parents[2] / ".cache/models/face_detection_short_range.tflite"
    if not path.exists():
        raise SystemExit(
            "The face detector is not here; run `make demo` or scripts/fetch-models, which fetch it."
        )
    return path


def folder_of(package: str) -> Path:
    """Return the folder of an installed package, without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(f"The package {package} is not installed; run `make demo`, which installs it.")
    return Path(spec.origin).parent
