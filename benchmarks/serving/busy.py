"""Many clients at a time: beside bare loops on the same threads, and with batching beside without.

python -m benchmarks.serving.busy [--json] [--quick]
"""

import queue
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import onnxruntime

from benchmarks.serving import models
from benchmarks.serving.agent import MODEL, serving
from benchmarks.serving.exchanges import binary, exchanging
from benchmarks.serving.figures import p50, percentile
from benchmarks.serving.generators import h2load
from benchmarks.serving.rows import Row, main, progress
from edge_agent.documents.plan import BatchingPlan
from edge_agent.documents.settings import CacheSettings

PATH = f"/v2/models/{MODEL}/infer"
OFF = CacheSettings(max_bytes=0)
LOOPS = "bare loops"
TURNS = 5
BATCH = 8
"""From 4 rows on a row takes half as long as alone, and larger batches only leave the loop and the worker idle
in turns."""


def measure(quick: bool) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name:
        yield from fair_share(Path(name), 1.0 if quick else 5.0)
        yield from batching(Path(name), 1.0 if quick else 5.0)


def fair_share(folder: Path, seconds: float) -> Iterator[Row]:
    """8 clients on a 10 ms model, beside 8 that ask two threads which do nothing but call the runtime."""
    progress("8 clients on a model of 10 ms …")
    picture = models.random(models.SLOW)
    model = models.slow(folder)
    with ExitStack() as stack:
        agent = stack.enter_context(serving(_made(folder / "slow"), model, cache=OFF))
        bare = loops(model, picture)
        served = [exchanging(agent.path, binary(PATH, {"x": picture})) for _ in range(8)]
        pairs = [(load(served, seconds), load([bare] * 8, seconds)) for _ in range(TURNS)]
    rates = {
        "edge-agent": p50([mine.per_s for mine, _ in pairs]),
        LOOPS: p50([other.per_s for _, other in pairs]),
    }
    share = p50([mine.per_s / other.per_s for mine, other in pairs])
    yield Row("8 clients on a 10 ms model: throughput", share, "x bare loops'", 0.95, True, rates, "1/s")
    times = {
        "edge-agent": p50([mine.p99_ms for mine, _ in pairs]),
        LOOPS: p50([other.p99_ms for _, other in pairs]),
    }
    excess = p50([mine.p99_ms / other.p99_ms for mine, other in pairs])
    yield Row("8 clients on a 10 ms model: p99", excess, "x bare loops'", 1.3, False, times, "ms")


def batching(folder: Path, seconds: float) -> Iterator[Row]:
    """32 clients on a small CNN, with and without batches of up to 8, by h2load over the Unix socket."""
    progress("32 clients on a small CNN, with batching and without …")
    request = binary(PATH, {"x": models.random(models.SMALL)})
    model = models.small(folder)
    rates: dict[str, list[float]] = {"unbatched": [], "batched": []}
    with ExitStack() as stack:
        agents = {
            name: stack.enter_context(serving(_made(folder / name), model, cache=OFF, batching=plan))
            for name, plan in (("unbatched", None), ("batched", BatchingPlan(BATCH)))
        }
        for _ in range(TURNS):
            for name, agent in agents.items():
                found = h2load(folder, agent.path, request, 32, seconds=seconds)
                assert not found.failures, found
                rates[name].append(found.per_s)
    gain = p50([many / one for many, one in zip(rates["batched"], rates["unbatched"], strict=True)])
    medians = {name: p50(values) for name, values in rates.items()}
    yield Row("batching on a small CNN, 32 clients", gain, "x unbatched", 2, True, medians, "1/s")


class Load:
    """What several loops have done in a time."""

    def __init__(self, latencies_s: list[float], seconds: float) -> None:
        self.per_s = len(latencies_s) / seconds
        self.p99_ms = percentile(latencies_s, 0.99) * 1e3


def loops(model: Path, picture: Any) -> Callable[[], object]:
    """Return a call of session.run by one of two threads that take turns, in the order that they were asked."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = 2, 1
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    asked: queue.SimpleQueue[threading.Event] = queue.SimpleQueue()

    def work() -> None:
        while True:
            done = asked.get()
            session.run(None, {"x": picture})
            done.set()

    for _ in range(2):
        threading.Thread(target=work, daemon=True).start()

    def run() -> None:
        done = threading.Event()
        asked.put(done)
        done.wait()

    return run


def load(calls: Sequence[Callable[[], object]], seconds: float) -> Load:
    """Have each call made again and again by a thread of its own."""
    latencies_s: list[float] = []
    end_s = time.perf_counter() + seconds

    def loop(call: Callable[[], object]) -> None:
        while (started_s := time.perf_counter()) < end_s:
            call()
            latencies_s.append(time.perf_counter() - started_s)

    threads = [threading.Thread(target=loop, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Load(latencies_s, seconds)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", measure))
