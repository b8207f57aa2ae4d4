"""Many clients at a time: beside bare loops on the same threads, and with batching beside without.

python -m benchmarks.serving.busy [--json] [--quick]
"""

import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import onnxruntime

from benchmarks.serving import load_output, models
from benchmarks.serving.agent import MODEL, serving
from benchmarks.serving.exchanges import binary, exchanging
from benchmarks.serving.figures import percentile
from benchmarks.serving.rows import Row, main, progress
from edge_agent.documents.plan import BatchingPlan
from edge_agent.documents.settings import CacheSettings

PATH = f"/v2/models/{MODEL}/infer"
OFF = CacheSettings(max_bytes=0)


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
        found = [(load([bare] * 8, seconds), load(served, seconds)) for _ in range(3)]
    bare_rate = max(one.per_s for one, _ in found)
    rate = max(other.per_s for _, other in found)
    bare_p99 = min(one.p99_ms for one, _ in found)
    p99 = min(other.p99_ms for _, other in found)
    rates = {"edge-agent": rate, "bare loops": bare_rate}
    yield Row(
        "8 clients on a 10 ms model: throughput of bare loops'", rate / bare_rate, "x", 0.95, True, rates, "1/s"
    )
    times = {"edge-agent": p99, "bare loops": bare_p99}
    yield Row("8 clients on a 10 ms model: p99", p99 / bare_p99, "x bare loops'", 1.3, False, times, "ms")


def batching(folder: Path, seconds: float) -> Iterator[Row]:
    """32 clients on a small CNN, with and without batches of up to 32, by h2load over the Unix socket."""
    progress("32 clients on a small CNN, with batching and without …")
    head, _, body = binary(PATH, {"x": models.random(models.SMALL)}).partition(b"\r\n\r\n")
    (folder / "body").write_bytes(body)
    length = next(line for line in head.decode().split("\r\n") if line.startswith("Inference-Header"))
    model = models.small(folder)
    best = {}
    for name, plan in (("unbatched", None), ("batched", BatchingPlan(32))):
        with serving(_made(folder / name), model, cache=OFF, batching=plan) as agent:
            command = [
                "h2load",
                "--h1",
                "-c32",
                "-D",
                str(int(seconds)),
                "-d",
                str(folder / "body"),
                "-H",
                length,
            ]
            command += ["-B", f"unix:{agent.path}", f"http://localhost{PATH}"]
            best[name] = max(h2load(command) for _ in range(2))
    gain = best["batched"] / best["unbatched"]
    yield Row("batching on a small CNN, 32 clients", gain, "x unbatched", 2, True, best, "1/s")


def h2load(command: list[str]) -> float:
    found = load_output.h2load(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert not found.failures, found
    return found.per_s


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


def load(calls: list[Callable[[], object]], seconds: float) -> Load:
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
