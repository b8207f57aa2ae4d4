"""Three servers written in Python with onnxruntime: MLServer, LitServe, and FastAPI by hand."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.serving.peers.environment import environment, free_port, running

_SESSION = """
import numpy as np, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession({model!r}, options, providers=["CPUExecutionProvider"])
"""
_FASTAPI = (
    _SESSION
    + """
from fastapi import FastAPI
app = FastAPI()

@app.post("/predict")
def predict(body: dict):
    inputs = {{name: np.array(values, np.int32).reshape(1, 16) for name, values in body.items()}}
    total, difference = session.run(None, inputs)
    return {{"OUTPUT0": total.ravel().tolist(), "OUTPUT1": difference.ravel().tolist()}}
"""
)
_LITSERVE = """
import litserve

class AddSub(litserve.LitAPI):
    def setup(self, device):
        {session}
        self.np, self.session = np, session

    def decode_request(self, request):
        return {{name: self.np.array(values, self.np.int32).reshape(1, 16) for name, values in request.items()}}

    def predict(self, inputs):
        return self.session.run(None, inputs)

    def encode_response(self, outputs):
        return {{"OUTPUT0": outputs[0].ravel().tolist(), "OUTPUT1": outputs[1].ravel().tolist()}}

if __name__ == "__main__":
    server = litserve.LitServer(AddSub(), accelerator="cpu")
    server.run(port={port}, host="127.0.0.1", generate_client_file=False, log_level="warning")
"""
_MLSERVER = (
    _SESSION
    + """
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse

class AddSub(MLModel):
    async def load(self):
        return True

    async def predict(self, payload):
        inputs = {{given.name: NumpyCodec.decode_input(given) for given in payload.inputs}}
        outputs = zip(("OUTPUT0", "OUTPUT1"), session.run(None, inputs))
        encoded = [NumpyCodec.encode_output(name, output) for name, output in outputs]
        return InferenceResponse(model_name=self.name, outputs=encoded)
"""
)


@dataclass(frozen=True)
class Peer:
    """A server that is ready: its port, the path that takes requests, and whether it speaks the protocol."""

    port: int
    path: str
    speaks_protocol: bool


@contextmanager
def fastapi(folder: Path, model: Path, cpus: set[int] | None) -> Iterator[Peer]:
    packages = environment("fastapi", "fastapi==0.165.0", "uvicorn[standard]==0.54.0", "onnxruntime==1.32.0")
    (folder / "served.py").write_text(_FASTAPI.format(model=str(model)))
    port = free_port()
    command: list[Any] = [packages / "bin/uvicorn", "served:app", "--port", str(port), "--log-level", "warning"]
    with running([*command, "--app-dir", folder], port, "/docs", cpus, folder / "log"):
        yield Peer(port, "/predict", speaks_protocol=False)


@contextmanager
def litserve(folder: Path, model: Path, cpus: set[int] | None) -> Iterator[Peer]:
    packages = environment("litserve", "litserve==0.2.19", "onnxruntime==1.32.0")
    port = free_port()
    session = _SESSION.format(model=str(model)).strip().replace("\n", "\n        ")
    (folder / "served.py").write_text(_LITSERVE.format(session=session, port=port))
    command = [packages / "bin/python", folder / "served.py"]
    with running(command, port, "/health", cpus, folder / "log"):
        yield Peer(port, "/predict", speaks_protocol=False)


@contextmanager
def mlserver(folder: Path, model: Path, cpus: set[int] | None) -> Iterator[Peer]:
    packages = environment("mlserver", "mlserver==1.7.1", "onnxruntime==1.32.0")
    (folder / "served.py").write_text(_MLSERVER.format(model=str(model)))
    port = free_port()
    ports = {"http_port": port, "grpc_port": free_port(), "metrics_port": free_port()}
    server = {"host": "127.0.0.1", "parallel_workers": 0, "debug": False, **ports}
    (folder / "settings.json").write_text(json.dumps(server))
    (folder / "model-settings.json").write_text(
        json.dumps({"name": "addsub", "implementation": "served.AddSub"})
    )
    command = [packages / "bin/mlserver", "start", folder]
    with running(command, port, "/v2/health/ready", cpus, folder / "log", {"PYTHONPATH": str(folder)}):
        yield Peer(port, "/v2/models/addsub/infer", speaks_protocol=True)


PEERS = {"MLServer": mlserver, "LitServe": litserve, "FastAPI": fastapi}
