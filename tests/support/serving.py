"""The serving process as the supervisor starts it, and small models for it."""

import dataclasses
import hashlib
import itertools
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Self

import flatbuffers
import msgspec
import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from onnx import TensorProto, helper, numpy_helper

from edge_agent.documents.ipc import (
    Applied,
    Apply,
    Configure,
    Drain,
    FromServing,
    Impaired,
    Metrics,
    Ready,
    Refused,
    ToServing,
)
from edge_agent.documents.plan import Plan, StatePair, VersionPlan, with_id
from edge_agent.documents.settings import (
    CacheSettings,
    EngineSettings,
    GrpcSettings,
    HttpSettings,
    OutcomeSettings,
)
from edge_agent.telemetry.health_page import HealthPage

LIMIT_S = 20.0

ONNX_TYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}


def save_onnx(
    path: Path,
    nodes: Sequence[Any],
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any],
    initializers: Sequence[Any] = (),
) -> Path:
    """Write an ONNX model; `inputs` and `outputs` map names to (OIP datatype, shape)."""
    graph = helper.make_graph(
        list(nodes),
        "test",
        [
            helper.make_tensor_value_info(name, ONNX_TYPES[kind], shape)
            for name, (kind, shape) in inputs.items()
        ],
        [
            helper.make_tensor_value_info(name, ONNX_TYPES[kind], shape)
            for name, (kind, shape) in outputs.items()
        ],
        list(initializers),
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def identity_onnx(path: Path, datatype: str = "FP32") -> Path:
    """Write y = x of any datatype and of shape [n, 2]."""
    tensor = (datatype, ["n", 2])
    return save_onnx(path, [helper.make_node("Identity", ["x"], ["y"])], {"x": tensor}, {"y": tensor})


def reciprocal_onnx(path: Path) -> Path:
    """Write y = 1 / x on FP32 [n]; infinite at 0."""
    tensor = ("FP32", ["n"])
    return save_onnx(path, [helper.make_node("Reciprocal", ["x"], ["y"])], {"x": tensor}, {"y": tensor})


def picky_onnx(path: Path) -> Path:
    """Write a model whose run fails unless x has as many rows as columns: y = x @ x on FP32 [n, m]."""
    node = helper.make_node("MatMul", ["x", "x"], ["y"])
    return save_onnx(path, [node], {"x": ("FP32", ["n", "m"])}, {"y": ("FP32", ["n", "m"])})


def slow_onnx(path: Path, size: int = 512, rounds: int = 6) -> Path:
    """Write y = x multiplied with itself over and over, on FP32 [size, size]: some tens of milliseconds."""
    names = ["x", *(f"t{index}" for index in range(rounds - 1)), "y"]
    nodes = [helper.make_node("MatMul", [before, "x"], [after]) for before, after in itertools.pairwise(names)]
    tensor = ("FP32", [size, size])
    return save_onnx(path, nodes, {"x": tensor}, {"y": tensor})


def totalling_onnx(path: Path, factor: float = 1.0, rounds: int = 0) -> Path:
    """Write a streaming model on FP32 [n, 2]: total = before + x, y = factor * total; `before` is its state.

    `rounds` makes it take some tens of milliseconds each.
    """
    nodes = [helper.make_node("Add", ["before", "x"], ["total"])]
    initializers = [helper.make_tensor("factor", TensorProto.FLOAT, [], [factor])]
    last = "total"
    if rounds:
        zeros = np.zeros((1024, 1024), np.float32)
        initializers.append(numpy_helper.from_array(zeros, "zeros"))
        nodes += [helper.make_node("ReduceMean", ["total"], ["mean"], keepdims=0)]
        nodes += [helper.make_node("Mul", ["zeros", "mean"], ["m0"])]
        nodes += [
            helper.make_node("MatMul", [f"m{index}", "zeros"], [f"m{index + 1}"]) for index in range(rounds)
        ]
        nodes += [helper.make_node("ReduceMean", [f"m{rounds}"], ["nothing"], keepdims=0)]
        nodes += [helper.make_node("Add", ["total", "nothing"], ["slowly"])]
        last = "slowly"
    nodes.append(helper.make_node("Mul", [last, "factor"], ["y"]))
    tensor = ("FP32", ["n", 2])
    return save_onnx(path, nodes, {"x": tensor, "before": tensor}, {"y": tensor, "total": tensor}, initializers)


def streaming_plan(path: Path, model: str = "m", version: str = "1", **state: str) -> VersionPlan:
    """Return the plan of a streaming model; `state` is its outputs by the inputs that they become."""
    pairs = tuple(StatePair(before, after) for before, after in (state or {"before": "total"}).items())
    return dataclasses.replace(version_plan(path, model, version), state=pairs)


def weighty_onnx(path: Path, factor: float, width: int = 900) -> Path:
    """Write y = factor * x on FP32 [n, 2], by way of a matrix of width * width: 3 MB."""
    there, square = np.eye(2, width, dtype=np.float32), np.eye(width, dtype=np.float32)
    weights = {"there": there, "square": square, "back": np.ascontiguousarray(there.T) * np.float32(factor)}
    nodes = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array))
        for name, array in weights.items()
    ]
    nodes += [
        helper.make_node("MatMul", ["x", "there"], ["wide"]),
        helper.make_node("MatMul", ["wide", "square"], ["same"]),
        helper.make_node("MatMul", ["same", "back"], ["y"]),
    ]
    tensor = ("FP32", ["n", 2])
    return save_onnx(path, nodes, {"x": tensor}, {"y": tensor})


def summing_onnx(path: Path, factor: float = 1.0) -> Path:
    """Write total = total_before + factor * x, on FP32 [n, 2]."""
    nodes = [
        helper.make_node("Constant", [], ["factor"], value_float=factor),
        helper.make_node("Mul", ["x", "factor"], ["scaled"]),
        helper.make_node("Add", ["before", "scaled"], ["after"]),
        helper.make_node("Identity", ["after"], ["total"]),
    ]
    tensor = ("FP32", ["n", 2])
    return save_onnx(path, nodes, {"x": tensor, "before": tensor}, {"total": tensor, "after": tensor})


def doubling_tflite(path: Path) -> Path:
    """Write a TFLite model of y = x + x on FP32 [-1, 3]."""
    tensors = []
    for name in ("x", "y"):
        tensor = schema.TensorT()
        tensor.name, tensor.type, tensor.buffer = name, schema.TensorType.FLOAT32, 0
        tensor.shape, tensor.shapeSignature = [1, 3], [-1, 3]
        tensors.append(tensor)
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, [0, 0], [1]
    operator.builtinOptionsType, operator.builtinOptions = (
        schema.BuiltinOptions.AddOptions,
        schema.AddOptionsT(),
    )
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.ADD
    code.version = 1
    graph = schema.SubGraphT()
    graph.tensors, graph.inputs, graph.outputs, graph.operators = tensors, [0], [1], [operator]
    model = schema.ModelT()
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
    model.buffers = [schema.BufferT()]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def wake_word() -> Path:
    """Return a real streaming model: INT8 [1, 3, 40] to UINT8 [1, 1], with state in resource variables."""
    return Path(str(resources.files("pymicro_wakeword") / "models/alexa.tflite"))


def magika() -> Path:
    """Return a real model: INT32 [n, 2048] to FP32 [n, 214], 3 MB."""
    return Path(str(resources.files("magika") / "models/standard_v3_3/model.onnx"))


def version_plan(path: Path, model: str = "m", version: str = "1", weight: float = 1.0) -> VersionPlan:
    """Return the plan of a model file, with the inputs and outputs that the file itself names."""
    content = path.read_bytes()
    return VersionPlan(
        model=model,
        version=version,
        engine=path.suffix[1:],
        precision="fp32",
        sha256=hashlib.sha256(content).hexdigest(),
        path=str(path),
        size_bytes=len(content),
        inputs=(),
        outputs=(),
        weight=weight,
    )


class ServingProcess:
    """A serving process with its own sockets, channel and health page; a context manager."""

    def __init__(
        self, folder: Path, http: HttpSettings | None = None, grpc: GrpcSettings | None = None, **settings: Any
    ) -> None:
        """Further settings are fields of `Configure`."""
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "infer.sock"
        self.page = HealthPage.create()
        self._log = folder / "log"
        self._infer = socket.socket(socket.AF_UNIX)
        self._infer.bind(str(self.path))
        self._tcp = socket.create_server(("127.0.0.1", 0))
        self._metrics = socket.create_server(("127.0.0.1", 0))
        self.tcp: tuple[str, int] = self._tcp.getsockname()
        self.metrics: tuple[str, int] = self._metrics.getsockname()
        for listener in (self._infer, self._tcp, self._metrics):
            listener.listen(4096)
        self._http = http or HttpSettings()
        self._settings = settings
        self._grpc = grpc or GrpcSettings()
        self._slots: dict[str, int] = {}
        self.impaired: list[str] = []
        """What the process has said that it cannot serve."""
        self._socket: socket.socket | None = None
        self.start()

    def start(self) -> None:
        """Start a process on the sockets, and wait until it serves them."""
        self.hang_up()
        ours, theirs = socket.socketpair()
        ours.settimeout(LIMIT_S)
        listeners = {"infer": self._infer, "http": self._tcp, "metrics": self._metrics}
        listen = ",".join(f"{purpose}:{listener.fileno()}" for purpose, listener in listeners.items())
        command = [sys.executable, "-m", "edge_agent.serving.server", "--channel", str(theirs.fileno())]
        command += ["--health", str(self.page.fd), "--listen", listen]
        descriptors = [theirs.fileno(), self.page.fd, *(listener.fileno() for listener in listeners.values())]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(command, pass_fds=descriptors, stderr=log)
        theirs.close()
        self._socket = ours
        self._channel = ours.makefile("rwb")
        self.send(self.configuration())
        assert self.receive() == Ready(pid=self.process.pid)

    def configuration(self) -> Configure:
        """Return how the process serves; nothing is remembered, so that every request runs the model."""
        usual: dict[str, Any] = {"cache": CacheSettings(max_bytes=0), "engines": EngineSettings(threads=1)}
        return Configure(
            device="test",
            http=self._http,
            outcomes=OutcomeSettings(),
            outcomes_db=str(self.path.parent / "outcomes.db"),
            secret=bytes(32).hex(),
            grpc=self._grpc,
            grpc_socket=str(self.path.with_name("grpc.sock")) if self._grpc.socket else None,
            **usual | self._settings,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.hang_up()
        self.process.kill()
        self.process.wait()
        for listener in (self._infer, self._tcp, self._metrics):
            listener.close()
        self.page.close()
        assert "Traceback" not in self.log, self.log

    @property
    def proc(self) -> Path:
        """What the kernel says of the process."""
        return Path(f"/proc/{self.process.pid}")

    @property
    def grpc_tcp(self) -> str:
        """Where gRPC is served on TCP, which the latest process has logged."""
        return re.findall(r"gRPC is served on .*?([\w.]+:\d+)", self.log)[-1]

    @property
    def grpc_unix(self) -> str:
        """Where gRPC is served on a Unix socket, as clients take it."""
        return f"unix:{self.path.with_name('grpc.sock')}"

    @property
    def log(self) -> str:
        """What the process has logged."""
        return self._log.read_text()

    def send(self, message: ToServing) -> None:
        """Send a message down the channel."""
        self._channel.write(msgspec.json.encode(message) + b"\n")
        self._channel.flush()

    def receive(self) -> FromServing:
        """Return the next message that comes up, but for metrics, which come when they are due."""
        while True:
            line = self._channel.readline()
            assert line, self.log
            message: FromServing = msgspec.json.decode(line, type=FromServing)
            if isinstance(message, Impaired):
                self.impaired.append(message.message)
            elif not isinstance(message, Metrics):
                return message

    def apply(self, *versions: VersionPlan, prove: bool = False) -> Applied | Refused:
        """Have a plan of these versions applied, and return what came of it."""
        for version in versions:
            self._slots.setdefault(version.key, len(self._slots))
        slots = {version.key: self._slots[version.key] for version in versions}
        self.send(Apply(plan=with_id(Plan(versions=versions)), slots=slots, prove=prove))
        outcome = self.receive()
        assert isinstance(outcome, Applied | Refused)
        return outcome

    def metrics_text(self) -> str:
        """Return what /metrics says."""
        with urllib.request.urlopen("http://{}:{}/metrics".format(*self.metrics), timeout=LIMIT_S) as answer:
            text: str = answer.read().decode()
        return text

    def reuse_slot(self, old: VersionPlan, new: VersionPlan) -> None:
        """Give a version the slot of another, as a supervisor does once that is not served any more."""
        self._slots[new.key] = self._slots.pop(old.key)

    def slot(self, version: VersionPlan) -> int:
        """Return a version's slot on the health page."""
        return self._slots[version.key]

    def drain(self) -> None:
        """Ask the process to answer what it has and end."""
        self.send(Drain())

    def terminate(self) -> None:
        """Ask the same with a signal."""
        self.process.send_signal(signal.SIGTERM)

    def hang_up(self) -> None:
        """Close the channel, as a supervisor does that dies."""
        if self._socket is not None:
            self._channel.close()
            self._socket.close()

    def wait(self) -> int:
        """Wait for the process to end and return its exit code."""
        return self.process.wait(LIMIT_S)
