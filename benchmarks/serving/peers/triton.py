"""NVIDIA's Triton Inference Server 2.51.0, as the package nvidia-pytriton ships it, with its Python backend."""

import os
import shutil
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving.peers.environment import environment, free_port, running
from edge_agent.documents.tensors import TensorSpec

PACKAGES = ("nvidia-pytriton==0.7.0", "numpy==1.26.4", "onnxruntime==1.32.0", "ai-edge-litert==2.3.0")

_ADD_SUB = """
import triton_python_backend_utils as pb

class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            one = pb.get_input_tensor_by_name(request, "INPUT0").as_numpy()
            other = pb.get_input_tensor_by_name(request, "INPUT1").as_numpy()
            outputs = [pb.Tensor("OUTPUT0", one + other), pb.Tensor("OUTPUT1", one - other)]
            answers.append(pb.InferenceResponse(outputs))
        return answers
"""
_ONNX = """
import onnxruntime
import triton_python_backend_utils as pb

class TritonPythonModel:
    def initialize(self, args):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession({path!r}, options, providers=["CPUExecutionProvider"])
        self.inputs = [given.name for given in self.session.get_inputs()]
        self.outputs = [output.name for output in self.session.get_outputs()]

    def execute(self, requests):
        answers = []
        for request in requests:
            given = {{name: pb.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs}}
            outputs = zip(self.outputs, self.session.run(None, given))
            answers.append(pb.InferenceResponse([pb.Tensor(name, output) for name, output in outputs]))
        return answers
"""
_TFLITE = """
import triton_python_backend_utils as pb
from ai_edge_litert.interpreter import Interpreter

class TritonPythonModel:
    def initialize(self, args):
        self.interpreter = Interpreter({path!r}, num_threads=1)
        self.interpreter.allocate_tensors()
        self.inputs = [(given["name"], given["index"]) for given in self.interpreter.get_input_details()]
        self.outputs = [(output["name"], output["index"]) for output in self.interpreter.get_output_details()]

    def execute(self, requests):
        answers = []
        for request in requests:
            for name, index in self.inputs:
                self.interpreter.set_tensor(index, pb.get_input_tensor_by_name(request, name).as_numpy())
            self.interpreter.invoke()
            outputs = [pb.Tensor(name, self.interpreter.get_tensor(index)) for name, index in self.outputs]
            answers.append(pb.InferenceResponse(outputs))
        return answers
"""


@dataclass(frozen=True)
class Model:
    """A model of the Python backend: its code, its tensors, and whether its answers are cached."""

    source: str
    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    is_cached: bool = False


def add_sub(*, is_cached: bool) -> Model:
    """Return the model of Triton's examples: the sum and the difference of INT32 [n, 16]."""
    inputs, outputs = (
        [TensorSpec(f"{kind}{number}", "INT32", (-1, 16)) for number in "01"] for kind in ("INPUT", "OUTPUT")
    )
    return Model(_ADD_SUB, inputs, outputs, is_cached)


def of_file(path: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> Model:
    """Return an ONNX or a TFLite file as a model, run with one thread."""
    source = _ONNX if path.suffix == ".onnx" else _TFLITE
    return Model(source.format(path=str(path)), inputs, outputs)


@contextmanager
def serving(folder: Path, models: Mapping[str, Model], cpus: set[int] | None) -> Iterator[int]:
    """Serve models by their names, with the local response cache; yield the port."""
    installed = environment("triton", *PACKAGES)
    site = next(installed.glob("lib/python*/site-packages"))
    triton, backends = site / "pytriton/tritonserver", folder / "backends"
    shutil.copytree(triton / "backends", backends)
    stub = (
        triton / "python_backend_stubs" / site.parent.name.removeprefix("python") / "triton_python_backend_stub"
    )
    shutil.copy(stub, backends / "python")
    (backends / "python" / stub.name).chmod(0o755)
    for name, model in models.items():
        write(folder / "models" / name, name, model)
    ports = {"http": free_port(), "grpc": free_port()}
    command: list[str | Path] = [triton / "bin/tritonserver", "--model-repository", folder / "models"]
    command += ["--backend-directory", backends, "--cache-directory", triton / "caches"]
    command += ["--cache-config", "local,size=16777216", "--allow-metrics", "false"]
    for protocol, port in ports.items():
        command += [f"--{protocol}-port", str(port), f"--{protocol}-address", "127.0.0.1"]
    environ = {
        # The backend looks for its Python there; another's numpy gives tensors that it cannot read.
        "PATH": f"{installed / 'bin'}:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": f"{site / 'nvidia_pytriton.libs'}:{sysconfig.get_config_var('LIBDIR')}",
        "PYTHONPATH": str(site),
    }
    with running(command, ports["http"], "/v2/health/ready", cpus, folder / "log", environ):
        yield ports["http"]


def write(folder: Path, name: str, model: Model) -> None:
    """Write a model into its folder of a model repository."""
    (folder / "1").mkdir(parents=True)
    (folder / "1/model.py").write_text(model.source)
    lines = [f'name: "{name}"', 'backend: "python"', "max_batch_size: 0"]
    lines += [f"input [ {_tensor(spec)} ]" for spec in model.inputs]
    lines += [f"output [ {_tensor(spec)} ]" for spec in model.outputs]
    lines += [f"response_cache {{ enable: {str(model.is_cached).lower()} }}"]
    (folder / "config.pbtxt").write_text("\n".join(lines))


def _tensor(spec: TensorSpec) -> str:
    return f'{{ name: "{spec.name}" data_type: TYPE_{spec.datatype} dims: {list(spec.shape)} }}'
