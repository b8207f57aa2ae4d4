"""What Triton's statistics extension tells of a version: how often, and how long by the parts of a request.

Source: Triton Inference Server, protocol/extension_statistics.md. For one thread.
"""

import time
from typing import Any

DURATIONS = (
    "success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss",
)  # fmt: skip
BATCH_DURATIONS = ("compute_input", "compute_infer", "compute_output")


class Duration:
    """How often something was done, and the nanoseconds that it took together."""

    __slots__ = ("count", "ns")

    def __init__(self) -> None:
        self.count = 0
        self.ns = 0

    def add(self, ns: int) -> None:
        """Count it once more."""
        self.count += 1
        self.ns += ns

    def to_builtins(self) -> dict[str, int]:
        """Return it as the protocol has it."""
        return {"count": self.count, "ns": self.ns}


class BatchStatistics:
    """The runs with one number of rows."""

    __slots__ = ("infer", "input", "output")

    def __init__(self) -> None:
        self.input, self.infer, self.output = Duration(), Duration(), Duration()


class VersionStatistics:
    """One version since the process started.

    `success` and `fail` are whole requests, from their last byte to their answer. A request that is answered
    from the cache has no `queue` and no `compute_…`.
    """

    __slots__ = (
        "_batches",
        "_newest_ns",
        "cache_hit",
        "cache_miss",
        "compute_infer",
        "compute_input",
        "compute_output",
        "execution_count",
        "fail",
        "inference_count",
        "queue",
        "success",
    )

    def __init__(self) -> None:
        self.success, self.fail = Duration(), Duration()
        self.queue, self.compute_input = Duration(), Duration()
        self.compute_infer, self.compute_output = Duration(), Duration()
        self.cache_hit, self.cache_miss = Duration(), Duration()
        self.inference_count = 0
        """Rows of all requests that were run; a model without a batch dimension has one a request."""
        self.execution_count = 0
        """Runs of the model."""
        self._newest_ns = 0
        """When the newest request was answered, by `time.perf_counter_ns`; 0 before the first."""
        self._batches: dict[int, BatchStatistics] = {}

    def note_request(self, took_ns: int, now_ns: int, is_success: bool) -> None:
        """Count a request that was answered now, by `time.perf_counter_ns`."""
        (self.success if is_success else self.fail).add(took_ns)
        self._newest_ns = now_ns

    def note_executions(self, count: int, rows: int, input_ns: int, infer_ns: int, output_ns: int) -> None:
        """Count runs of the model that served so many rows together, of one request or several."""
        self.execution_count += count
        batch = self._batches.get(rows)
        if batch is None:
            batch = self._batches[rows] = BatchStatistics()
        batch.input.add(input_ns)
        batch.infer.add(infer_ns)
        batch.output.add(output_ns)

    def to_builtins(self, model: str, version: str, resident_bytes: int) -> dict[str, Any]:
        """Return an entry of `model_stats`; `resident_bytes` is what the model takes in memory now."""
        return {
            "name": model,
            "version": version,
            "last_inference": self._last_inference_ms(),
            "inference_count": self.inference_count,
            "execution_count": self.execution_count,
            "inference_stats": {name: getattr(self, name).to_builtins() for name in DURATIONS},
            "response_stats": {},
            "batch_stats": [
                {
                    "batch_size": rows,
                    "compute_input": batch.input.to_builtins(),
                    "compute_infer": batch.infer.to_builtins(),
                    "compute_output": batch.output.to_builtins(),
                }
                for rows, batch in sorted(self._batches.items())
            ],
            "memory_usage": [{"type": "CPU", "id": 0, "byte_size": resident_bytes}],
        }

    def _last_inference_ms(self) -> int:
        """Return the Unix time of the newest request, 0 before the first.

        Taken from how long ago it was, so that a request asks for one clock alone. That one stands still while
        the machine sleeps: by so much a request before it seems newer.
        """
        if not self._newest_ns:
            return 0
        return (time.time_ns() - (time.perf_counter_ns() - self._newest_ns)) // 1_000_000
