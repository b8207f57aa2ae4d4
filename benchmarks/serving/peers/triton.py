"""NVIDIA's Triton Inference Server 2.51.0, as the package nvidia-pytriton ships it, with its Python backend."""

import os
import shutil
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.serving.peers.environment import environment, free_port, running

PACKAGES = ("nvidia-pytriton==0.7.0", "numpy<2")

MODEL = """
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
CONFIG = """
name: "{name}"
backend: "python"
max_batch_size: 0
input [ {{ name: "INPUT0" data_type: TYPE_INT32 dims: [ -1, 16 ] }}, {{ name: "INPUT1" data_type: TYPE_INT32 dims: [ -1, 16 ] }} ]
output [ {{ name: "OUTPUT0" data_type: TYPE_INT32 dims: [ -1, 16 ] }}, {{ name: "OUTPUT1" data_type: TYPE_INT32 dims: [ -1, 16 ] }} ]
response_cache {{ enable: {cached} }}
"""  # noqa: E501


@contextmanager
def serving(folder: Path, cpus: set[int] | None) -> Iterator[int]:
    """Serve adding and subtracting as `plain`, and as `cached` with the response cache; yield the port."""
    packages = environment("triton", *PACKAGES) / "lib"
    site = next(packages.glob("python*/site-packages"))
    triton, backends = site / "pytriton/tritonserver", folder / "backends"
    shutil.copytree(triton / "backends", backends)
    stub = triton / "python_backend_stubs" / packages.parent.joinpath("lib").glob("python*").__next__().name[6:]
    shutil.copy(stub / "triton_python_backend_stub", backends / "python")
    (backends / "python/triton_python_backend_stub").chmod(0o755)
    for name, cached in (("plain", "false"), ("cached", "true")):
        version = folder / "models" / name / "1"
        version.mkdir(parents=True)
        (version / "model.py").write_text(MODEL)
        (version.parent / "config.pbtxt").write_text(CONFIG.format(name=name, cached=cached))
    port, grpc_port = free_port(), free_port()
    command = [triton / "bin/tritonserver", "--model-repository", folder / "models"]
    command += ["--backend-directory", backends, "--cache-directory", triton / "caches"]
    command += [
        "--cache-config",
        "local,size=16777216",
        "--http-port",
        str(port),
        "--grpc-port",
        str(grpc_port),
    ]
    command += ["--http-address", "127.0.0.1", "--grpc-address", "127.0.0.1", "--allow-metrics", "false"]
    environ = {
        # The backend looks for its Python there; another's numpy gives tensors that it cannot read.
        "PATH": f"{packages.parent / 'bin'}:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": f"{site / 'nvidia_pytriton.libs'}:{sysconfig.get_config_var('LIBDIR')}",
        "PYTHONPATH": str(site),
    }
    with running(command, port, "/v2/health/ready", cpus, folder / "log", environ):
        yield port
