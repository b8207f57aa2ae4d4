"""`edge-agent serve`: serve model files from this host, without a store, keys or a broker."""

import argparse
import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

from edge_agent.cli.examples import curl_line
from edge_agent.cli.launch import execute, prepare_runtime_folder
from edge_agent.cli.model_files import Served, inspect, named
from edge_agent.cli.options import natural
from edge_agent.cli.output import Output, size
from edge_agent.cli.serving_options import with_batching, with_states
from edge_agent.cli.sockets import process_exists, serve_base, served_folders
from edge_agent.documents.errors import OperatorError, RequestError
from edge_agent.documents.ipc import Launch
from edge_agent.documents.places import default_device_id
from edge_agent.documents.plan import Plan, with_id
from edge_agent.documents.settings import (
    DeviceSettings,
    EngineSettings,
    GrpcSettings,
    HttpSettings,
    LogSettings,
    PathSettings,
    Settings,
    SharedMemorySettings,
)
from edge_agent.store.layout import RuntimeLayout

DESCRIPTION = """\
Serve .onnx and .tflite files from this host by the Open Inference Protocol v2, on loopback and on a Unix
socket. For development: the files are unsigned, and nothing of an agent that runs here is touched."""

EXAMPLES = """\
  edge-agent serve model.onnx
  edge-agent serve detector.tflite classifier.onnx --port 9000
  edge-agent serve model.onnx --name magika --threads 2
  edge-agent serve classifier.onnx --batch 32:500
  edge-agent serve silero_vad.onnx --state state=stateN
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command's options."""
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL", help="an .onnx or .tflite file")
    parser.add_argument("--name", help="name of the model (default: from the file's name)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=natural, default=8000, help="TCP port; 0: a free one (default: 8000)")
    parser.add_argument("--grpc-port", type=natural, metavar="PORT", help="TCP port for gRPC (default: none)")
    parser.add_argument(
        "--runtime", type=Path, metavar="FOLDER", help="folder for the sockets (default: one in the user's)"
    )
    parser.add_argument("--threads", type=natural, default=0, help="threads of one run (default: all cores)")
    parser.add_argument(
        "--provider", action="append", metavar="NAME", help="ONNX Runtime execution provider; may be repeated"
    )
    parser.add_argument(
        "--batch",
        metavar="SIZE[:DELAY_US]",
        help="run requests together, where the first dimension is a batch",
    )
    parser.add_argument(
        "--state", action="append", metavar="INPUT=OUTPUT", help="a streaming model's state; may be repeated"
    )
    parser.add_argument(
        "--shared-memory", action="store_true", help="let local apps pass tensors in system shared memory"
    )
    parser.add_argument("--delegate", metavar="PATH", help="TFLite delegate library")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="warning")


def run(args: argparse.Namespace) -> int:
    """Load each file once to learn its inputs, say how to reach it, and become the agent."""
    output = Output(args.json)
    engines = EngineSettings(
        threads=args.threads,
        onnx_providers=tuple(args.provider or EngineSettings().onnx_providers),
        tflite_delegate=args.delegate,
    )
    port = free_port(args.host, args.port)
    grpc_port = None if args.grpc_port is None else free_port(args.host, args.grpc_port, "--grpc-port")
    served = [inspect(path, name, engines) for name, path in named(args.models, args.name)]
    served, policies = with_batching(with_states(served, args.state or ()), args.batch)
    folder = args.runtime.absolute() if args.runtime else _own_folder()
    settings = Settings(
        device=DeviceSettings(id=default_device_id()),
        paths=PathSettings(state=str(folder / "state"), runtime=str(folder)),
        http=HttpSettings(tcp_host=args.host, tcp_port=port),
        engines=engines,
        shared_memory=SharedMemorySettings(enabled=args.shared_memory),
        grpc=GrpcSettings(tcp_host=args.host, tcp_port=grpc_port),
        log=LogSettings(level=args.log_level),
    )
    prepare_runtime_folder(folder)
    plan = with_id(Plan(origin="file", versions=tuple(model.plan for model in served), policies=policies))
    url, infer_socket = base_url(args.host, port), str(RuntimeLayout(folder).infer_socket)
    grpc_url = None if grpc_port is None else base_url(args.host, grpc_port).replace("http", "grpc", 1)
    if output.as_json:
        output.record(_as_json(served, url, infer_socket, grpc_url))
    else:
        for line in lines(served, url, infer_socket, output, grpc_url):
            output.line(line)
    execute(Launch(settings=settings, plan=plan))


def free_port(host: str, port: int, option: str = "--port") -> int:
    """Return the port, or a free one for 0; raises OperatorError where the agent could not listen on it."""
    if port > 65535:
        raise RequestError(f"{port} is no TCP port; give {option} a number from 0 to 65535.")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
            return int(probe.getsockname()[1])
    except socket.gaierror as error:
        raise RequestError(f"'{host}' is no address of this host; give --host another.") from error
    except OSError as error:
        raise OperatorError(
            f"Cannot listen on {host} port {port}: {(error.strerror or str(error)).lower()}; give another with "
            f"{option}, or {option} 0 for any free one."
        ) from error


def base_url(host: str, port: int) -> str:
    """Return the URL of an address, with brackets around an IPv6 one; any address means loopback."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


def lines(
    served: Sequence[Served], url: str, infer_socket: str, output: Output, grpc_url: str | None = None
) -> Iterator[str]:
    """Yield what is served, that it is not for production, and requests to try."""
    for model in served:
        plan = model.plan
        name = output.style(plan.model, "bold")
        yield f"Serving {name} ({plan.engine}, {size(plan.size_bytes)}): {plan.path}"
    yield output.style("Unsigned, development only.", "yellow")
    yield ""
    yield f"  {url}"
    yield f"  {infer_socket}"
    if grpc_url is not None:
        yield f"  {grpc_url}"
    for model in served:
        yield ""
        yield from _trials(model, url, infer_socket)
    yield ""
    yield "Ctrl-C ends it."
    yield ""


def _trials(model: Served, url: str, infer_socket: str) -> Iterator[str]:
    name, inputs = model.plan.model, model.plan.inputs
    over_tcp = curl_line(name, inputs, url)
    over_socket = curl_line(name, inputs, "http://localhost", infer_socket)
    if not model.takes_zeros:
        yield f"{name} does not run on zeros; see what it takes:"
        yield f"  curl -s {url}/v2/models/{name}"
        return
    yield f"Try {name} with zeros:"
    if over_tcp and over_socket:
        yield f"  {over_tcp}"
        yield f"  {over_socket}"
    yield f"  edge-agent infer {name} --zeros --socket {infer_socket}"


def _as_json(served: Sequence[Served], url: str, infer_socket: str, grpc_url: str | None) -> dict[str, object]:
    return {
        "pid": os.getpid(),
        "url": url,
        "infer_socket": infer_socket,
        "grpc_url": grpc_url,
        "unsigned": True,
        "models": [
            {
                "name": model.plan.model,
                "path": model.plan.path,
                "engine": model.plan.engine,
                "sha256": model.plan.sha256,
                "curl": curl_line(model.plan.model, model.plan.inputs, url) if model.takes_zeros else None,
            }
            for model in served
        ],
    }


def _own_folder() -> Path:
    """Return a folder named after this process, and remove those of processes that have ended."""
    for folder in served_folders():
        if not process_exists(int(folder.name)) or int(folder.name) == os.getpid():
            shutil.rmtree(folder, ignore_errors=True)
    return serve_base() / str(os.getpid())
