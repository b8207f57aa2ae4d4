"""torch's own eager dynamic quantization, to compare with ONNX dynamic."""

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.converters.building import FLOAT
from benchmarks.converters.data import Array
from benchmarks.converters.measuring import REPEATS, Line, Timing, compressed
from benchmarks.converters.subjects import Subject

QUANTIZED = "quantize_dynamic"
FORMAT = "torch"
RUNTIME = "torch, eager"

_ROUNDS = 5
_ROUND_S = 0.05


def quantized(model: Any) -> Any:
    """Return torch's own dynamically quantized copy: int8 weights of the Linear layers, eager mode."""
    import warnings

    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, which is why it can't be exported
        return torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)  # type: ignore[no-untyped-call]


def score(subject: Subject) -> list[Line]:
    """Score and weigh the model that the ONNX files were made of, as it is and quantized by torch itself."""
    base = _answers(subject.model, subject.test)
    return [
        _scored(subject, FLOAT, subject.model, base),
        _scored(subject, QUANTIZED, quantized(subject.model), base),
    ]


def _scored(subject: Subject, variant: str, model: Any, base: Sequence[Mapping[str, Array]]) -> Line:
    content = _state_bytes(model)
    line = Line(variant, FORMAT, RUNTIME, "", len(content), compressed(content))
    line.score.append(subject.score(_answers(model, subject.test), base))
    line.base.append(subject.score(base, base))
    return line


def clock(model: Any, sample: Mapping[str, Array]) -> list[Timing]:
    """Time both in turns, each with a warm-up of one run."""
    import torch

    models = {FLOAT: model, QUANTIZED: quantized(model)}
    x = torch.from_numpy(next(iter(sample.values())))
    times: dict[str, list[float]] = {name: [] for name in models}
    with torch.inference_mode():
        for _ in range(_ROUNDS * REPEATS):
            for name, one in models.items():
                one(x)
                end = time.perf_counter() + _ROUND_S
                while time.perf_counter() < end:
                    begin = time.perf_counter()
                    one(x)
                    times[name].append(time.perf_counter() - begin)
    return [Timing(name, FORMAT, RUNTIME, 1000 * statistics.median(runs), None) for name, runs in times.items()]


def _state_bytes(model: Any) -> bytes:
    """Return a torch model's saved state dict."""
    import io

    import torch

    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    return buffer.getvalue()


def _answers(model: Any, test: Sequence[Mapping[str, Array]]) -> list[dict[str, Array]]:
    """Run a torch model eagerly, one sample a run."""
    import torch

    with torch.inference_mode():
        return [{"scores": model(torch.from_numpy(sample["x"])).numpy()} for sample in test]
