"""How far a variant is from the float model: errors, agreement, and the tolerances that follow.

Pure functions over the answers to the same samples. Definitions:

- The scale of an output is its largest minus its smallest value over the float model's answers; for the 8-bit
  outputs of a quantized model the full 256 steps; 1 where that would be 0.
- The error of an answer is its largest absolute difference from the float model's, per output; text has the
  scale 1 and the error 0 where all is equal, else it is infinite.
- A model is a classifier when the metric reads classes, or when its first output is probabilities (at least
  two, none negative, that sum to 1) or one class number. Agreement is then the share of samples whose class is
  the float model's.
- For any other model, agreement is 1 minus the root mean square error in units of the scale, averaged over
  samples, of the worst output; 0 at least.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from converters.arrays import Sample
from converters.checks.metrics import EVEN, class_of, is_class_number, is_probability
from edge_agent.documents.manifest import Precision, Tolerance
from edge_agent.documents.tensors import TensorSpec

MARGIN: Final = 1.5
"""Tolerance over the largest error seen on the golden samples: other processors round in other places."""

FLOOR: Final[dict[str, float]] = {"fp32": 1e-4, "fp16": 1e-3, "int16x8": 1e-3, "dynamic": 1e-2, "int8": 2e-2}
"""Least tolerance of a precision, in units of the output's scale."""

RUNTIME_FLOOR: Final[dict[str, float]] = {
    "fp32": 1e-3, "fp16": 5e-3, "int16x8": 1e-2, "dynamic": 4e-2, "int8": 4e-2,
}  # fmt: skip
"""How far two runtimes may always be apart; LiteRT's and tflite-runtime's int8 differ by up to 8 of 256."""

MEANINGLESS: Final = 0.5
"""Share of the scale beyond which an error says that the answers have nothing to do with the model's."""

_EIGHT_BIT: Final = 256.0
_TEXT: Final = "SUO"
"""Kinds of numpy's datatypes that hold text."""
_PROBABILITY_SLACK: Final = 1e-3


def scales(specs: Sequence[TensorSpec], answers: Sequence[Sample], *, quantized: bool) -> dict[str, float]:
    """Return the scale of each output."""
    return {spec.name: _scale(spec, [answer[spec.name] for answer in answers], quantized) for spec in specs}


def errors(want: Sequence[Sample], got: Sequence[Sample]) -> dict[str, float]:
    """Return the largest error of each output; infinite where shapes differ or only one value is finite."""
    return {
        name: max(_error(expected[name], actual[name]) for expected, actual in zip(want, got, strict=True))
        for name in want[0]
    }


def tolerances(
    specs: Sequence[TensorSpec], seen: Mapping[str, float], scale: Mapping[str, float], precision: Precision
) -> dict[str, Tolerance]:
    """Return what a device may be off by: MARGIN times the error seen, plus the precision's floor.

    Integer outputs get no floor, since class numbers are right or wrong; but those of 8 bits, which quantized
    models have, do.
    """
    found = {}
    for spec in specs:
        counts = spec.datatype.startswith(("FP", "INT8", "UINT8"))
        floor = FLOOR[precision] * scale[spec.name] if counts else 0.0
        found[spec.name] = Tolerance(atol=_round_up(MARGIN * seen[spec.name] + floor))
    return found


def same_answers(
    own: Mapping[str, float],
    apart: Mapping[str, float],
    scale: Mapping[str, float],
    precision: Precision,
) -> str | None:
    """Say which output of another runtime is too far from the reference runtime's, or None if none is.

    `own` is the reference runtime's error against the float model, `apart` the distance between the runtimes:
    at most twice the former, or the floor of the precision.
    """
    for name, distance in apart.items():
        allowed = max(2 * own[name], RUNTIME_FLOOR[precision] * scale[name])
        if np.isinf(distance):
            return f"output '{name}' is not the reference runtime's in shape or text, or not finite"
        if not distance <= allowed:
            return (
                f"output '{name}' is {_percent(distance / scale[name])} of its range away from the reference "
                f"runtime's, {_percent(allowed / scale[name])} allowed"
            )
    return None


def meaningless(seen: Mapping[str, float], scale: Mapping[str, float]) -> str | None:
    """Say which output has an error that makes a tolerance pointless, or None if none has."""
    for name, error in seen.items():
        if np.isinf(error):
            return f"output '{name}' has another shape or text, or values that are not finite"
        if not error <= MEANINGLESS * scale[name]:
            return f"output '{name}' is off by {_percent(error / scale[name])} of its range"
    return None


def first_output(specs: Sequence[TensorSpec]) -> str:
    """Return the name of the output that classes or values are read from: the first that is not text."""
    return next((spec.name for spec in specs if spec.datatype != "BYTES"), specs[0].name)


def is_classifier(answers: Sequence[Sample], first: str) -> bool:
    """Say whether the output holds probabilities of classes, or class numbers."""
    return all(is_class_number(answer[first]) or _is_probabilities(answer[first]) for answer in answers)


def clearest_first(answers: Sequence[Sample], first: str) -> NDArray[np.intp]:
    """Return the order of samples with the clearly classified half in front, both halves in their own order.

    Golden samples come from the front: where two classes are level, a right variant may choose the other, and a
    tolerance that allows it would allow anything.
    """
    margins = []
    for answer in answers:
        if answer[first].dtype.kind in _TEXT:
            return np.arange(len(answers), dtype=np.intp)
        scores = np.sort(np.asarray(answer[first], dtype=np.float64).ravel())
        margins.append(float(scores[-1] - scores[-2]) if scores.size > 1 else _margin(answer[first]))
    unclear = np.asarray(margins) < np.median(margins)
    return np.argsort(unclear, kind="stable")


def agreement(
    want: Sequence[Sample], got: Sequence[Sample], first: str, scale: Mapping[str, float], *, classifier: bool
) -> float:
    """Return how much the answers agree with the float model's, 0 to 1; see the module for the definition."""
    pairs = list(zip(want, got, strict=True))
    if classifier:
        return float(np.mean([np.array_equal(_classes(a[first]), _classes(b[first])) for a, b in pairs]))
    shares = [float(np.mean([_rms(a[name], b[name]) for a, b in pairs])) / scale[name] for name in scale]
    # The largest of several numbers may be one beside a NaN.
    return max(0.0, 1.0 - max(shares)) if np.isfinite(shares).all() else 0.0


def _scale(spec: TensorSpec, values: Sequence[NDArray[Any]], quantized: bool) -> float:
    if quantized and spec.datatype in ("INT8", "UINT8"):
        return _EIGHT_BIT
    if spec.datatype == "BYTES":
        return 1.0
    flat = np.concatenate([np.asarray(value, dtype=np.float64).ravel() for value in values])
    finite = flat[np.isfinite(flat)]
    spread = float(np.ptp(finite)) if finite.size else 0.0
    return spread or 1.0


def _error(want: NDArray[Any], got: NDArray[Any]) -> float:
    if want.shape != got.shape:
        return float("inf")
    if _is_text(want, got):
        return 0.0 if np.array_equal(want, got) else float("inf")
    expected, actual = want.astype(np.float64), got.astype(np.float64)
    with np.errstate(invalid="ignore"):
        difference = np.abs(expected - actual)
    difference = np.where(_both_same_non_finite(expected, actual), 0.0, difference)
    worst = float(np.max(difference, initial=0.0))
    return worst if np.isfinite(worst) else float("inf")


def _both_same_non_finite(expected: NDArray[Any], actual: NDArray[Any]) -> NDArray[np.bool_]:
    both: NDArray[np.bool_] = (np.isnan(expected) & np.isnan(actual)) | (expected == actual)
    return both


def _rms(want: NDArray[Any], got: NDArray[Any]) -> float:
    if want.shape != got.shape:
        return float("inf")
    if _is_text(want, got):
        return 0.0 if np.array_equal(want, got) else 1.0
    difference = want.astype(np.float64) - got.astype(np.float64)
    return float(np.sqrt(np.mean(difference**2))) if difference.size else 0.0


def _classes(scores: NDArray[Any]) -> NDArray[np.intp]:
    """Return the class at each place of an answer, since some answer for each word or pixel."""
    if is_class_number(scores) or scores.dtype.kind in _TEXT:
        return scores
    if is_probability(scores):
        return np.array([class_of(scores)], np.intp)
    found: NDArray[np.intp] = np.argmax(np.atleast_1d(scores), axis=-1)
    return found


def _margin(value: NDArray[Any]) -> float:
    return abs(float(value.reshape(-1)[0]) - EVEN) if is_probability(value) else 0.0


def _is_text(*arrays: NDArray[Any]) -> bool:
    return any(array.dtype.kind in _TEXT for array in arrays)


def _is_probabilities(scores: NDArray[Any]) -> bool:
    if scores.dtype.kind in _TEXT or scores.ndim == 0 or scores.shape[-1] < 2:
        return False
    row = np.asarray(scores, np.float64)
    return bool(row.min() >= -_PROBABILITY_SLACK) and bool(
        np.all(np.abs(row.sum(axis=-1) - 1) < _PROBABILITY_SLACK)
    )


def _round_up(value: float) -> float:
    """Round up to three digits, so that a tolerance does not carry the noise of one run."""
    if value <= 0:
        return 0.0
    unit = 10.0 ** (int(np.floor(np.log10(value))) - 2)
    return float(f"{np.ceil(value / unit) * unit:.6g}")


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
