"""NVIDIA's perf_analyzer, unmodified, measures this server as it measures Triton."""

import csv
import os
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.documents.ipc import Applied
from edge_agent.documents.settings import GrpcSettings, SharedMemorySettings
from support.serving import ServingProcess, identity_onnx, version_plan

FOLDER = Path(__file__).parents[2] / ".cache/perf-analyzer"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="there is no perf_analyzer for this machine"),
]


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingProcess]:
    folder = tmp_path_factory.mktemp("perf")
    settings = {"shared_memory": SharedMemorySettings(enabled=True)}
    with ServingProcess(folder / "s", None, GrpcSettings(tcp_port=0), **settings) as process:
        model = identity_onnx(folder / "m.onnx")
        assert isinstance(process.apply(version_plan(model)), Applied)
        yield process


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("memory", ["none", "system"])
def test_it_measures(serving: ServingProcess, tmp_path: Path, protocol: str, memory: str) -> None:
    url = "{}:{}".format(*serving.tcp) if protocol == "http" else serving.grpc_tcp
    report = tmp_path / "report.csv"
    command = [str(FOLDER / "perf_analyzer"), "-m", "m", "-u", url, "-i", protocol, "--shape", "x:1,2"]
    command += ["--concurrency-range", "2", "--measurement-interval", "300", "--max-trials", "4"]
    command += ["--stability-percentage", "999", "--shared-memory", memory, "-f", str(report)]
    environ = {**os.environ, "LD_LIBRARY_PATH": str(FOLDER)}
    done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = csv.DictReader(report.read_text().splitlines())
    assert float(row["Inferences/Second"]) > 100
    assert float(row["Server Compute Infer"]) > 0
