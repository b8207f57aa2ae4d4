"""The agent beside Triton, MLServer, LitServe and FastAPI: adding and subtracting INT32[16], JSON over TCP.

    python -m benchmarks.serving.against_peers [--json] [--quick]

For latency all servers and the client share one CPU, and are asked in turns: across the cores of a virtual
machine a wake-up costs 40 to 100 µs, which hides all else. For throughput nothing is pinned, and wrk sends from
16 connections. Triton has its C++ front end and its local response cache; the model runs in its Python backend,
as the package ships no other.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from benchmarks.serving import load_output, models
from benchmarks.serving.agent import MODEL, pinned, serving
from benchmarks.serving.exchanges import exchanging, medians_us, post, tensors
from benchmarks.serving.peers import python_servers, triton
from benchmarks.serving.rows import Row, main, progress, ratio

HOST = "127.0.0.1"
ONES = np.ones((1, 16), np.int32)
ARRAYS = {"INPUT0": ONES, "INPUT1": ONES}
PLAIN = {name: array.ravel().tolist() for name, array in ARRAYS.items()}


def measure(quick: bool) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name:
        model = models.add_sub(Path(name))
        yield from latency(Path(name), model, 200 if quick else 3000)
        yield from throughput(Path(name), model, 1 if quick else 10)


def latency(folder: Path, model: Path, rounds: int) -> Iterator[Row]:
    """One connection, everything on one CPU."""
    cpus = {max(os.sched_getaffinity(0))}
    with ExitStack() as stack:
        stack.enter_context(pinned(cpus))
        progress("Latency beside Triton, MLServer, LitServe and FastAPI …")
        agent = stack.enter_context(serving(_made(folder / "agent"), model, cpus=cpus))
        port = stack.enter_context(triton.serving(_made(folder / "triton"), cpus))
        path = f"/v2/models/{MODEL}/infer"
        calls = {
            "edge-agent": exchanging((HOST, agent.port), post(path, tensors(ARRAYS, cache=False))),
            "edge-agent cached": exchanging((HOST, agent.port), post(path, tensors(ARRAYS))),
            "Triton": exchanging((HOST, port), post("/v2/models/plain/infer", tensors(ARRAYS))),
            "Triton cached": exchanging((HOST, port), post("/v2/models/cached/infer", tensors(ARRAYS))),
        }
        for name, start in python_servers.PEERS.items():
            peer = stack.enter_context(start(_made(folder / name), model, cpus))
            body = tensors(ARRAYS) if peer.speaks_protocol else PLAIN
            calls[name] = exchanging((HOST, peer.port), post(peer.path, body))
        found = medians_us(calls, rounds)
    cached, ours = found["edge-agent cached"], found["edge-agent"]
    yield ratio(
        "cached answer, JSON, TCP, 1 connection, p50", cached, found["Triton cached"], "Triton", "µs", 0.75
    )
    yield ratio("tiny model uncached, JSON, 1 connection, p50", ours, found["Triton"], "Triton", "µs", 0.4)
    for name in python_servers.PEERS:
        yield Row(
            f"tiny model uncached, JSON, 1 connection: faster than {name}",
            found[name] / ours,
            "x",
            5,
            True,
            {"edge-agent": ours, name: found[name]},
            "µs",
        )


def throughput(folder: Path, model: Path, seconds: int) -> Iterator[Row]:
    """Cached answers a second to 16 connections; the two servers take turns."""
    progress("Cached answers a second, beside Triton …")
    with ExitStack() as stack:
        agent = stack.enter_context(serving(_made(folder / "agent16"), model))
        port = stack.enter_context(triton.serving(_made(folder / "triton16"), None))
        targets = {
            "edge-agent": (agent.port, f"/v2/models/{MODEL}/infer"),
            "Triton": (port, "/v2/models/cached/infer"),
        }
        best = dict.fromkeys(targets, 0.0)
        for _ in range(3):
            for name, (where, path) in targets.items():
                found = wrk(folder, where, path, seconds)
                assert not found.failures, (name, found)
                best[name] = max(best[name], found.per_s)
    ours, theirs = best["edge-agent"], best["Triton"]
    yield ratio("cached answers a second, 16 connections", ours, theirs, "Triton", "1/s", 2, is_minimum=True)


def wrk(folder: Path, port: int, path: str, seconds: int) -> load_output.Load:
    body = post(path, tensors(ARRAYS)).partition(b"\r\n\r\n")[2].decode()
    script = folder / "post.lua"
    script.write_text(
        f'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\nwrk.body = [[{body}]]\n'
    )
    command = [
        "wrk",
        "-t1",
        "-c16",
        f"-d{seconds}s",
        "--latency",
        "-s",
        str(script),
        f"http://{HOST}:{port}{path}",
    ]
    return load_output.wrk(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", measure))
