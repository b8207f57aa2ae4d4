"""Fixtures that every part's tests may use."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
START_LIMIT_S = 10.0


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """Host and port of a real broker of this test's own; MQTT 3.1.1 and 5, anonymous clients, no memory."""
    program = _mosquitto_program()
    folder = tmp_path / "mosquitto"
    folder.mkdir()
    address = ("127.0.0.1", _free_port())
    log = folder / "log"
    config = folder / "mosquitto.conf"
    config.write_text(
        f"listener {address[1]} {address[0]}\n"
        "allow_anonymous true\n"
        f"persistence_location {folder}/\n" + ("user root\n" if os.geteuid() == 0 else "")
        # As root it would otherwise change to a user that may not write to the folder.
    )
    with log.open("wb") as file:
        process = subprocess.Popen([program, "-c", config], stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    try:
        _wait_until_it_listens(process, address, log)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _mosquitto_program() -> str:
    path = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin"
    unpacked = CHECKOUT / ".cache/mosquitto/mosquitto"
    program = shutil.which("mosquitto", path=path) or (str(unpacked) if unpacked.exists() else None)
    if program is None:
        pytest.fail("mosquitto is not installed; run scripts/fetch-mosquitto, or the tests by `make test`.")
    return program


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def _wait_until_it_listens(process: "subprocess.Popen[bytes]", address: tuple[str, int], log: Path) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(address, timeout=1).close()
        except ConnectionRefusedError:
            time.sleep(0.02)
        else:
            return
    pytest.fail(f"mosquitto did not start: {log.read_text()}")
