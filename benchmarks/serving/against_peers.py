"""The agent beside Triton, MLServer, LitServe and FastAPI: adding and subtracting INT32[16], JSON over TCP.

    python -m benchmarks.serving.against_peers [--json] [--quick]

For latency all servers and the client share one CPU, and are asked in turns: across the cores of a virtual
machine a wake-up costs 40 to 100 µs, which hides all else. For throughput nothing is pinned, and wrk sends from
16 connections. Triton has its C++ front end and its local response cache; the model runs in its Python backend,
as the package ships no other. Triton, MLServer and the agent are sent the same bytes.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from benchmarks.serving import models
from benchmarks.serving.agent import MODEL, pinned, serving
from benchmarks.serving.exchanges import answer, connect, exchanging, medians_us, post, tensors
from benchmarks.serving.figures import p50
from benchmarks.serving.generators import h2load, wrk
from benchmarks.serving.peers import python_servers, triton
from benchmarks.serving.peers.install import install_all
from benchmarks.serving.rows import Row, main, progress, ratio
from edge_agent.documents.settings import CacheSettings

HOST = "127.0.0.1"
ONES = np.ones((1, 16), np.int32)
ARRAYS = {"INPUT0": ONES, "INPUT1": ONES}
PLAIN = {name: array.ravel().tolist() for name, array in ARRAYS.items()}
OURS = post(f"/v2/models/{MODEL}/infer", tensors(ARRAYS))
TRITON = {"plain": triton.add_sub(is_cached=False), "cached": triton.add_sub(is_cached=True)}
CONNECTIONS = 16
TURNS = 5


def measure(quick: bool) -> Iterator[Row]:
    install_all()
    with tempfile.TemporaryDirectory() as name:
        model = models.add_sub(Path(name))
        yield from latency(Path(name), model, 200 if quick else 3000)
        yield from throughput(Path(name), model, 1 if quick else 6)


def latency(folder: Path, model: Path, rounds: int) -> Iterator[Row]:
    """One connection, everything on one CPU."""
    cpus = {max(os.sched_getaffinity(0))}
    progress("Latency beside Triton, MLServer, LitServe and FastAPI …")
    with ExitStack() as stack:
        stack.enter_context(pinned(cpus))
        ports, requests = _started(stack, folder, model, cpus)
        # Only now: a server closes a connection on which nothing comes while the others start.
        calls: dict[str, Callable[[], object]] = {
            name: exchanging((HOST, ports[name]), request) for name, request in requests.items()
        }
        found = medians_us(calls, rounds)
        _check_cached(ports["edge-agent cached"])
    cached, ours = found["edge-agent cached"], found["edge-agent"]
    yield ratio(
        "cached answer, JSON, TCP, 1 connection, p50", cached, found["Triton cached"], "Triton", "µs", 0.75
    )
    yield ratio("tiny model uncached, JSON, 1 connection, p50", ours, found["Triton"], "Triton", "µs", 0.4)
    for name in python_servers.PEERS:
        what = f"tiny model uncached, JSON, 1 connection: faster than {name}"
        yield Row(what, found[name] / ours, "x", 5, True, {"edge-agent": ours, name: found[name]}, "µs")


def _started(
    stack: ExitStack, folder: Path, model: Path, cpus: set[int]
) -> tuple[dict[str, int], dict[str, bytes]]:
    """Start all servers; return the port and the request of each."""
    off = CacheSettings(max_bytes=0)
    agents = {
        "edge-agent": stack.enter_context(serving(_made(folder / "agent"), model, cpus=cpus, cache=off)),
        "edge-agent cached": stack.enter_context(serving(_made(folder / "remembers"), model, cpus=cpus)),
    }
    ports = {name: agent.port for name, agent in agents.items()}
    requests = dict.fromkeys(agents, OURS)
    port = stack.enter_context(triton.serving(_made(folder / "triton"), TRITON, cpus))
    for name, served in (("Triton", "plain"), ("Triton cached", "cached")):
        ports[name], requests[name] = port, post(f"/v2/models/{served}/infer", tensors(ARRAYS))
    for name, start in python_servers.PEERS.items():
        peer = stack.enter_context(start(_made(folder / name), model, cpus))
        ports[name] = peer.port
        requests[name] = post(peer.path, tensors(ARRAYS) if peer.speaks_protocol else PLAIN)
    return ports, requests


def throughput(folder: Path, model: Path, seconds: int) -> Iterator[Row]:
    """Cached answers a second to 16 connections; the two servers take turns."""
    progress("Cached answers a second, beside Triton …")
    theirs = post("/v2/models/cached/infer", tensors(ARRAYS))
    with ExitStack() as stack:
        agent = stack.enter_context(serving(_made(folder / "agent16"), model))
        port = stack.enter_context(triton.serving(_made(folder / "triton16"), TRITON, None))
        rates: dict[str, list[float]] = {"edge-agent": [], "Triton": [], "Unix socket": []}
        for _ in range(TURNS):
            loads = {
                "edge-agent": wrk(folder, agent.port, OURS, CONNECTIONS, seconds),
                "Triton": wrk(folder, port, theirs, CONNECTIONS, seconds),
                "Unix socket": h2load(folder, agent.path, OURS, CONNECTIONS, seconds=seconds),
            }
            for name, load in loads.items():
                assert not load.failures, (name, load)
                rates[name].append(load.per_s)
        _check_cached(agent.port)
    found = {name: p50(values) for name, values in rates.items()}
    unix = found.pop("Unix socket")
    gain = p50([mine / other for mine, other in zip(rates["edge-agent"], rates["Triton"], strict=True)])
    what = f"cached answers a second, {CONNECTIONS} connections"
    yield Row(what, gain, "x Triton's", 2, True, found, "1/s")
    yield Row(f"{what}, Unix socket, by h2load", unix, "1/s")


def _check_cached(port: int) -> None:
    """A cache that rests, as it does where looking up does not pay, would be measured for what it is not."""
    with connect((HOST, port)) as connection:
        _, body = answer(connection, OURS)
    assert b'"cache":"hit"' in body, body


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", measure))
