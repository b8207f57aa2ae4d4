"""A serving process with models whose answers tell whether they were run again."""

import hashlib
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import msgspec
import onnx
from onnx import TensorProto, helper

from edge_agent.client import Client
from edge_agent.documents.ipc import Applied, Apply, Configure, FromServing, Ready
from edge_agent.documents.plan import ArmPlan, ModelPlan, Plan, VersionPlan, with_id
from edge_agent.documents.settings import CacheSettings, EngineSettings, HttpSettings, OutcomeSettings
from edge_agent.telemetry.health_page import HealthPage

LIMIT_S = 30.0
SECRET = b"0123456789abcdef0123456789abcdef"


def noisy_onnx(path: Path, *, size: int = 1, rounds: int = 1) -> Path:
    """Write y = x + r, z = -x on FP32 [n, m], with r drawn afresh in every run: equal answers are one run's.

    Each round multiplies a matrix of this size: 512 and 8 take some tens of milliseconds.
    """
    nodes = [helper.make_node("RandomNormal", [], ["t0"], shape=[size, size], dtype=TensorProto.FLOAT)]
    nodes += [helper.make_node("MatMul", [f"t{n}", "t0"], [f"t{n + 1}"]) for n in range(rounds)]
    nodes += [
        helper.make_node("ReduceMean", [f"t{rounds}"], ["r"], keepdims=0),
        helper.make_node("Add", ["x", "r"], ["y"]),
        helper.make_node("Neg", ["x"], ["z"]),
    ]
    return _save(path, nodes, "FLOAT", ["n", "m"], ["y", "z"])


def identity_onnx(path: Path, datatype: str) -> Path:
    """Write y = x on [n, m] of a datatype as ONNX names it."""
    return _save(path, [helper.make_node("Identity", ["x"], ["y"])], datatype, ["n", "m"], ["y"])


def picky_onnx(path: Path, *, size: int = 512, rounds: int = 8) -> Path:
    """Write y = x @ x on FP32 [n, m] after tens of milliseconds: it fails unless n is m."""
    nodes = [helper.make_node("RandomNormal", [], ["t0"], shape=[size, size], dtype=TensorProto.FLOAT)]
    nodes += [helper.make_node("MatMul", [f"t{n}", "t0"], [f"t{n + 1}"]) for n in range(rounds)]
    nodes += [
        helper.make_node("ReduceMean", [f"t{rounds}"], ["r"], keepdims=0),
        helper.make_node("Add", ["x", "r"], ["noisy"]),
        helper.make_node("MatMul", ["noisy", "x"], ["y"]),
    ]
    return _save(path, nodes, "FLOAT", ["n", "m"], ["y"])


def _save(path: Path, nodes: Sequence[Any], datatype: str, shape: list[str], outputs: Sequence[str]) -> Path:
    kind = getattr(TensorProto, datatype)
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(name, kind, shape) for name in outputs],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def version_plan(path: Path, model: str = "m", version: str = "1") -> VersionPlan:
    """Return the plan of a model file as one version of a model."""
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return VersionPlan(model, version, "onnx", "fp32", digest, str(path), len(content), (), (), arm=version)


def experiment(*weights: tuple[str, float], model: str = "m", **options: Any) -> ModelPlan:
    """Return a policy with an arm for each (version, weight), the arms named `arm-<version>`."""
    arms = tuple(ArmPlan(f"arm-{version}", version, weight) for version, weight in weights)
    return ModelPlan(model, arms, **{"experiment": "x", "epoch": 2, "salt": "s", **options})


class Serving:
    """A serving process with its own socket, channel and health page; a context manager."""

    def __init__(
        self,
        folder: Path,
        cache: CacheSettings | None = None,
        http: HttpSettings | None = None,
        device: str = "device-1",
    ) -> None:
        self.path = folder / "infer.sock"
        self.page = HealthPage.create()
        self._log = folder / "serving.log"
        self._slots: dict[str, int] = {}
        ours, theirs = socket.socketpair()
        ours.settimeout(LIMIT_S)
        with socket.socket(socket.AF_UNIX) as listener, self._log.open("ab") as log:
            listener.bind(str(self.path))
            listener.listen(4096)
            descriptors = [theirs.fileno(), self.page.fd, listener.fileno()]
            command = [sys.executable, "-m", "edge_agent.serving.server", "--channel", str(descriptors[0])]
            command += ["--health", str(descriptors[1]), "--listen", f"infer:{descriptors[2]}"]
            self.process = subprocess.Popen(command, pass_fds=descriptors, stderr=log)
        theirs.close()
        self._socket, self._channel = ours, ours.makefile("rwb")
        self._send(
            Configure(
                device=device,
                http=http or HttpSettings(),
                engines=EngineSettings(threads=1),
                cache=cache or CacheSettings(),
                outcomes=OutcomeSettings(),
                outcomes_db=str(folder / "outcomes.db"),
                secret=SECRET.hex(),
            )
        )
        self._receive(Ready)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()
        self._socket.close()
        self.process.kill()
        self.process.wait(LIMIT_S)
        self.page.close()
        assert "Traceback" not in self._log.read_text(), self._log.read_text()

    def apply(self, *versions: VersionPlan, policies: Sequence[ModelPlan] = ()) -> None:
        """Have a plan of these versions served."""
        for version in versions:
            self._slots.setdefault(version.key, len(self._slots))
        plan = with_id(Plan(versions=versions, policies=tuple(policies)))
        self._send(Apply(plan=plan, slots={version.key: self._slots[version.key] for version in versions}))
        assert self._receive(Applied).plan_id == plan.id

    def exposures(self, version: VersionPlan) -> int:
        """Return how many exposures the health page has of a version."""
        return self.page.snapshot().slots[self._slots[version.key]].exposures

    def client(self) -> Client:
        return Client(self.path)

    def post(self, content: object, headers: str = "", path: str = "/v2/models/m/infer") -> socket.socket:
        """Send a JSON body on a new connection, which is returned."""
        body = msgspec.json.encode(content)
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(LIMIT_S)
        connection.connect(str(self.path))
        head = f"POST {path} HTTP/1.1\r\nHost: test\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode("latin-1") + body)
        return connection

    def metrics(self) -> dict[str, float]:
        """Return the samples of /metrics, by name and labels."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(LIMIT_S)
            connection.connect(str(self.path))
            connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            whole = b"".join(iter(lambda: connection.recv(65536), b""))
        lines = whole.partition(b"\r\n\r\n")[2].decode().splitlines()
        samples = [line.rpartition(" ") for line in lines if not line.startswith("#")]
        return {name: float(value) for name, _, value in samples}

    def _send(self, message: Configure | Apply) -> None:
        self._channel.write(msgspec.json.encode(message) + b"\n")
        self._channel.flush()

    def _receive(self, kind: type[Any]) -> Any:
        while True:
            line = self._channel.readline()
            assert line, self._log.read_text()
            message: FromServing = msgspec.json.decode(line, type=FromServing)
            if isinstance(message, kind):
                return message


def answer_of(connection: socket.socket) -> tuple[int, dict[str, Any]]:
    """Return status and JSON body of the answer that a connection waits for."""
    whole = b""
    with connection:
        while True:
            head, separator, body = whole.partition(b"\r\n\r\n")
            if separator:
                fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
                if len(body) == int(fields[b"content-length"]):
                    answer: dict[str, Any] = msgspec.json.decode(body)
                    return int(head.split()[1]), answer
            data = connection.recv(65536)
            assert data, "the connection was closed without an answer"
            whole += data
