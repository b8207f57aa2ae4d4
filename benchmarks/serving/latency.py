"""What serving adds to a model's own run time, over the Unix socket.

    python -m benchmarks.serving.latency [--json] [--rounds N]

Client and servers share one CPU: across the cores of a virtual machine wake-ups cost 40 to 100 µs, which
hides all else. Round by round it takes the time of a binary-tensor request, of a bare `session.run` of the
same model in this process, and of an exchange of as many bytes with a 20-line uvloop server on the same
kind of socket; the target is for the median of the first less the medians of the two others.

Two models have the same inputs and outputs: one that only cuts its input, which shows what serving itself
takes, and Magika, whose runs leave the CPU's caches without a trace of either server. That makes whatever
follows a run dearer by a multiple: an echo after an echo takes 13 µs, after a run of Magika 120.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from edge_agent.client import Client
from edge_agent.client.calls import infer_call
from edge_agent.client.wire import Exchange
from edge_agent.documents.ipc import Applied, Apply, Configure, FromServing, Ready
from edge_agent.documents.plan import Plan, VersionPlan, with_id
from edge_agent.documents.settings import CacheSettings, EngineSettings, HttpSettings, OutcomeSettings
from edge_agent.telemetry.health_page import HealthPage

TARGET_US = 80.0
WARM_UP_ROUNDS = 20
TOKENS = np.random.default_rng(0).integers(0, 256, (1, 2048)).astype(np.int32)

ECHO = """
import asyncio, socket, sys, uvloop

class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.count = transport, 0
    def data_received(self, data):
        self.count += len(data)
        if self.count >= ASKED:
            self.count -= ASKED
            self.transport.write(ANSWER)

async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_unix_server(Echo, sock=socket.socket(fileno=int(sys.argv[1])))
    await server.serve_forever()

ASKED, ANSWER = int(sys.argv[2]), b"x" * int(sys.argv[3])
uvloop.run(main())
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print rows of name, value, unit, target, met")
    parser.add_argument("--rounds", type=int, default=500)
    options = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as name:
        for label, path in (("cut", cutting_model(Path(name))), ("Magika", magika_model())):
            with ExitStack() as stack:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                rows += report(label, measure(stack, folder, path, options.rounds))
    if options.json:
        print(json.dumps(rows, indent=1))
    else:
        for row in rows:
            target = "" if row["target"] is None else f"   target <= {row['target']:g}, met: {row['met']}"
            print(f"{row['name']:<58}{row['value']:>10.1f} {row['unit']}{target}")
    return 0 if all(row["met"] is not False for row in rows) else 1


def measure(stack: ExitStack, folder: Path, path: Path, rounds: int) -> dict[str, list[float]]:
    """Return the microseconds of every exchange, by what was exchanged."""
    request = infer_call("magika", None, {"bytes": TOKENS}, None, {"cache": False}, None).request
    repeated = infer_call("magika", None, {"bytes": TOKENS}, None, None, None).request
    infer_socket = stack.enter_context(serving(folder, path))
    client = stack.enter_context(Client(infer_socket))
    assert np.allclose(client.infer("magika", TOKENS).outputs["target_label"], bare_session(path)())
    answer_bytes = http_answer_size(infer_socket, request)
    hit_bytes = http_answer_size(infer_socket, repeated)
    echo_socket = stack.enter_context(echoing(folder, len(request), answer_bytes))
    calls = {
        "request": exchanging(infer_socket, request, answer_bytes),
        "run": bare_session(path),
        "echo": exchanging(echo_socket, request, answer_bytes),
        "hit": exchanging(infer_socket, repeated, hit_bytes),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(WARM_UP_ROUNDS + rounds):
        for name, call in calls.items():
            elapsed_us = timed_us(call)
            if number >= WARM_UP_ROUNDS:
                times[name].append(elapsed_us)
    times["client"] = [
        timed_us(lambda: client.infer("magika", {"bytes": TOKENS}, parameters={"cache": False}))
        for _ in range(rounds // 4)
    ]
    return times


def report(label: str, times: dict[str, list[float]]) -> list[dict[str, object]]:
    """Return the rows of the table."""
    p50 = {name: statistics.median(values) for name, values in times.items()}
    added = p50["request"] - p50["run"] - p50["echo"]
    return [
        row(f"serving, {label}: p50 of a binary request, Unix socket", p50["request"]),
        row(f"serving, {label}: p50 of the bare session.run", p50["run"]),
        row(f"serving, {label}: p50 of an echo of as many bytes", p50["echo"]),
        row(f"serving, {label}: p50 added to session.run and echo", added, TARGET_US),
        row(f"serving, {label}: p50 through edge_agent.client.Client", p50["client"]),
        row(f"serving, {label}: p50 of a binary request that is remembered", p50["hit"]),
    ]


def row(name: str, value: float, target: float | None = None) -> dict[str, object]:
    met = None if target is None else value <= target
    return {"name": name, "value": round(value, 1), "unit": "µs", "target": target, "met": met}


def timed_us(call: Callable[[], object]) -> float:
    started_ns = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - started_ns) / 1000


def bare_session(path: Path) -> Callable[[], object]:
    """Return a call of session.run, set up as the agent's engine sets it up for one CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"bytes": TOKENS})[0]


def exchanging(path: Path, request: bytes, answer_bytes: int) -> Callable[[], object]:
    """Return a call that sends the request and takes an answer of known size, the cheapest client there is."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(path))

    def exchange() -> None:
        connection.sendall(request)
        missing = answer_bytes
        while missing:
            data = connection.recv(missing)
            if not data:
                raise ConnectionError("the server closed the connection")
            missing -= len(data)

    return exchange


def http_answer_size(path: Path, request: bytes) -> int:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(request)
        exchange, count, reply = Exchange(), 0, None
        while reply is None:
            data = connection.recv(65536)
            count += len(data)
            reply = exchange.feed(data)
        assert reply.status == 200, reply.body
        return count


@contextmanager
def echoing(folder: Path, asked_bytes: int, answer_bytes: int) -> Iterator[Path]:
    path = folder / "echo.sock"
    with listening(path) as listener:
        arguments = [str(listener.fileno()), str(asked_bytes), str(answer_bytes)]
        process = subprocess.Popen([sys.executable, "-c", ECHO, *arguments], pass_fds=[listener.fileno()])
        yield path
        process.kill()
        process.wait()


@contextmanager
def serving(folder: Path, model: Path) -> Iterator[Path]:
    """Run a serving process with the model, as the supervisor does; yield its socket's path."""
    path = folder / "infer.sock"
    ours, theirs = socket.socketpair()
    page = HealthPage.create()
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    version = VersionPlan("magika", "1", "onnx", "fp32", digest, str(model), model.stat().st_size, (), ())
    with listening(path) as listener, ours, theirs, ours.makefile("rwb") as channel:
        descriptors = [theirs.fileno(), page.fd, listener.fileno()]
        command = [sys.executable, "-m", "edge_agent.serving.server", "--channel", str(descriptors[0])]
        command += ["--health", str(descriptors[1]), "--listen", f"infer:{descriptors[2]}"]
        process = subprocess.Popen(command, pass_fds=descriptors, stderr=subprocess.DEVNULL)
        theirs.close()
        configure = Configure(
            device="bench",
            http=HttpSettings(),
            engines=EngineSettings(threads=1),
            cache=CacheSettings(),
            outcomes=OutcomeSettings(),
            outcomes_db=str(folder / "outcomes.db"),
            secret=bytes(32).hex(),
        )
        apply = Apply(plan=with_id(Plan(versions=(version,))), slots={version.key: 0})
        for message, answer in ((configure, Ready), (apply, Applied)):
            channel.write(msgspec.json.encode(message) + b"\n")
            channel.flush()
            while not isinstance(msgspec.json.decode(channel.readline(), type=FromServing), answer):
                pass
        yield path
        process.kill()
        process.wait()
    page.close()


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        yield listener


def cutting_model(folder: Path) -> Path:
    """Write a model with Magika's input and output that returns the first 214 of 2048 values."""
    nodes = [
        helper.make_node("Cast", ["bytes"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Slice", ["floats", "start", "end", "axis"], ["target_label"]),
    ]
    constants = [
        helper.make_tensor(name, TensorProto.INT64, [1], [value])
        for name, value in (("start", 0), ("end", 214), ("axis", 1))
    ]
    given = helper.make_tensor_value_info("bytes", TensorProto.INT32, ["n", 2048])
    result = helper.make_tensor_value_info("target_label", TensorProto.FLOAT, ["n", 214])
    graph = helper.make_graph(nodes, "cut", [given], [result], constants)
    path = folder / "cut.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def magika_model() -> Path:
    spec = importlib.util.find_spec("magika")
    if spec is None or spec.origin is None:
        sys.exit("The benchmark needs the model of the package magika; install it with: pip install magika")
    return Path(spec.origin).parent / "models/standard_v3_3/model.onnx"


if __name__ == "__main__":
    sys.exit(main())
