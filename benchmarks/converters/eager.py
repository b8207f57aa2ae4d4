"""torch's own eager dynamic quantization, to compare with ONNX dynamic."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.converters.data import Array


def quantized(model: Any) -> Any:
    """Return torch's own dynamically quantized copy: int8 weights of the Linear layers, eager mode."""
    import warnings

    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, which is why it can't be exported
        return torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)


def state_bytes(model: Any) -> bytes:
    """Return a torch model's saved state dict."""
    import io

    import torch

    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    return buffer.getvalue()


def answers(model: Any, test: Sequence[Mapping[str, Array]]) -> tuple[list[dict[str, Array]], float]:
    """Run a torch model eagerly, one sample a run; returns the answers and the median milliseconds of a run."""
    import time

    import torch

    found, times = [], []
    with torch.inference_mode():
        for sample in test:
            x = torch.from_numpy(sample["x"])
            begin = time.perf_counter()
            scores = model(x)
            times.append(time.perf_counter() - begin)
            found.append({"scores": scores.numpy()})
    return found, 1000 * float(np.median(times))
