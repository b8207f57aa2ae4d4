"""Which models are measured, and which targets apply to each."""

from functools import partial

from benchmarks.converters import shipped, subjects
from benchmarks.converters.subjects import Case

_BOTH = ("onnx", "tflite")


def _digits(framework: str, kind: str) -> Case:
    checks = {"int8", *(("speed",) if kind == "cnn" else ()), *(("torch",) if framework == "torch" else ())}
    make = partial(subjects.digits, framework, kind)
    return Case(f"digits-{kind}-{framework}", make, _BOTH, checks=frozenset(checks))


def _animals(framework: str) -> Case:
    checks = {"int8", "speed", "pruned", *(("torch",) if framework == "torch" else ())}
    make = partial(subjects.animals, framework)
    return Case(f"animals-cnn-{framework}", make, _BOTH, checks=frozenset(checks))


def _classical(kind: str) -> Case:
    return Case(f"digits-{kind}-sklearn", partial(subjects.classical, kind), ("onnx",))


def _photographs(name: str, file: str, size: int, low: float, *, faces: bool = False) -> Case:
    make = shipped.photographs(file, size, low, faces=faces)
    return Case(name, make, ("tflite",), is_trained=False, metric="closeness to the source model")


def _file(name: str, make: subjects.Make, metric: str = "accuracy", *checks: str) -> Case:
    return Case(name, make, ("onnx",), is_trained=False, metric=metric, checks=frozenset(checks))


CASES = (
    *(_digits(framework, kind) for kind in ("mlp", "cnn") for framework in ("keras", "torch")),
    *(_animals(framework) for framework in ("keras", "torch")),
    Case("motions-cnn-torch", partial(subjects.motions, raw=False), _BOTH, checks=frozenset({"int8", "speed"})),
    Case("motions-raw-cnn-torch", partial(subjects.motions, raw=True), _BOTH, checks=frozenset({"search"})),
    *(_classical(kind) for kind in ("forest", "boosting", "logistic")),
    _file("magika", shipped.magika, "accuracy", "search"),
    _file("silero-vad", shipped.silero, "frames rightly told as speech or not"),
    _file("ppocr-cls", shipped.ocr_direction),
    _file("ppocr-det", shipped.ocr_detection, "overlap with the source model's text areas"),
    _file("ppocr-rec", shipped.ocr_reading, "lines read without a fault"),
    _photographs("hand-recrop", "hand_recrop.tflite", 256, 0.0),
    _photographs("face-detection", "face_detection_short_range.tflite", 128, -1.0),
    _photographs("face-landmark", "face_landmark.tflite", 192, 0.0, faces=True),
    _photographs("pose-detection", "pose_detection.tflite", 224, -1.0),
    _photographs("pose-landmark", "pose_landmark_full.tflite", 256, 0.0),
)

QUICK = (
    "digits-mlp-torch",
    "digits-cnn-keras",
    "motions-raw-cnn-torch",
    "digits-logistic-sklearn",
    "hand-recrop",
)
"""Measured with --quick, one of each kind."""
