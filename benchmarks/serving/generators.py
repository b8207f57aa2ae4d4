"""Load by wrk over TCP and by h2load over the Unix socket."""

import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.serving import load_output

_PACKAGES = {"wrk": "wrk", "h2load": "nghttp2-client"}


def check_installed() -> None:
    """End the program where a load generator is missing."""
    for program, package in _PACKAGES.items():
        if shutil.which(program) is None:
            sys.exit(f"The benchmark needs {program}; on Debian: apt-get install {package}")


def wrk(folder: Path, port: int, request: bytes, connections: int, seconds: float) -> load_output.Load:
    """Send a request again and again over TCP for some whole seconds; `folder` takes wrk's script."""
    path, headers, body = parts(request)
    script, content = folder / "post.lua", folder / "body"
    content.write_bytes(body)
    lines = ['wrk.method = "POST"', f'wrk.body = io.open("{content}", "rb"):read("*a")']
    lines += [f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items()]
    script.write_text("\n".join(lines))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{_whole(seconds)}s", "--latency", "-s", str(script)]
    return load_output.wrk(_output([*command, f"http://127.0.0.1:{port}{path}"]))


def h2load(
    folder: Path, socket: Path, request: bytes, connections: int, *, seconds: float = 0, requests: int = 0
) -> load_output.Load:
    """Send a request again and again over a Unix socket, for some whole seconds or so many times."""
    path, headers, body = parts(request)
    content = folder / "body"
    content.write_bytes(body)
    amount = ["-n", str(requests)] if requests else ["-D", _whole(seconds)]
    command = ["h2load", "--h1", f"-c{connections}", *amount, "-d", str(content), "-B", f"unix:{socket}"]
    for name, value in headers.items():
        command += ["-H", f"{name}: {value}"]
    return load_output.h2load(_output([*command, f"http://localhost{path}"]))


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _whole(seconds: float) -> str:
    return str(max(1, round(seconds)))


def parts(request: bytes) -> tuple[str, dict[str, str], bytes]:
    """Return path, headers and body; without the headers that the generators write themselves."""
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    own = ("host", "content-length")
    return first.split()[1], {name: value for name, value in headers.items() if name.lower() not in own}, body
