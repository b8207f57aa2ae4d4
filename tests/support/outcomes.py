"""A serving process that takes outcomes: no plan, no model, a database and a secret."""

import resource
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import msgspec

from edge_agent.client import Client
from edge_agent.client.wire import Exchange
from edge_agent.documents.ipc import (
    Applied,
    Apply,
    Configure,
    Drain,
    FromServing,
    Ready,
    StateDamaged,
    ToServing,
)
from edge_agent.documents.plan import Plan, with_id
from edge_agent.documents.settings import CacheSettings, EngineSettings, HttpSettings, OutcomeSettings
from edge_agent.policy.prediction_id import Prediction, encode
from edge_agent.store.outcomes_db import read_sums
from edge_agent.telemetry.health_page import HealthPage

LIMIT_S = 30.0
SECRET = b"0123456789abcdef0123456789abcdef"


STARTED_S = time.time()
"""When the predictions of this run were made: an id that is asked for twice must be the same one."""


def prediction_id(
    number: int | None = None,
    *,
    model: str = "m",
    arm: str = "a",
    bucket: int = 0,
    age_s: float = 0.0,
    secret: bytes = SECRET,
) -> str:
    """Return the id of a prediction that this device made, of a nonce that the number names."""
    nonce = secrets.token_bytes(8) if number is None else number.to_bytes(8, "big")
    return encode(secret, Prediction(model, "e", 1, arm, bucket, int(STARTED_S - age_s), nonce))


def one(text: str, **values: object) -> dict[str, Any]:
    """Return the body that tells one outcome."""
    return {"outcomes": [{"prediction_id": text, "values": values}]}


class OutcomeServing:
    """`edge_agent.serving.server` on a socket that stays when the process is killed; a context manager."""

    def __init__(self, folder: Path, *, interval_s: float = 0.02, window_s: float = 86_400.0) -> None:
        self.path = folder / "infer.sock"
        self.database = folder / "outcomes.db"
        self._log = folder / "serving.log"
        self._settings = OutcomeSettings(window_s, interval_s)
        self._page = HealthPage.create()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen(4096)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._listener.close()
        self._page.close()
        assert "Traceback" not in self._log.read_text(), self._log.read_text()

    def start(self) -> None:
        """Start a process and wait until it serves the socket."""
        ours, theirs = socket.socketpair()
        ours.settimeout(LIMIT_S)
        descriptors = [theirs.fileno(), self._page.fd, self._listener.fileno()]
        command = [sys.executable, "-m", "edge_agent.serving.server", "--channel", str(descriptors[0])]
        command += ["--health", str(descriptors[1]), "--listen", f"infer:{descriptors[2]}"]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(command, pass_fds=descriptors, stderr=log)
        theirs.close()
        self._socket, self._channel = ours, ours.makefile("rwb")
        self._send(
            Configure(
                device="test",
                http=HttpSettings(),
                engines=EngineSettings(threads=1),
                cache=CacheSettings(),
                outcomes=self._settings,
                outcomes_db=str(self.database),
                secret=SECRET.hex(),
            )
        )
        assert self.receive(Ready)
        self._send(Apply(plan=with_id(Plan()), slots={}))
        assert self.receive(Applied)

    def receive(self, kind: type[Any]) -> Any:
        """Return the next message of a kind that serving sends."""
        while True:
            line = self._channel.readline()
            assert line, self._log.read_text()
            message: FromServing = msgspec.json.decode(line, type=FromServing)
            if isinstance(message, kind):
                return message

    def damage_report(self) -> str:
        """Return what serving says about a damaged database."""
        message: str = self.receive(StateDamaged).message
        return message

    def drain(self) -> None:
        """Ask the process to answer what it has and to end."""
        self._send(Drain())

    def kill(self) -> None:
        """End the process as a crash would."""
        self.process.kill()
        self.process.wait(LIMIT_S)
        self._channel.close()
        self._socket.close()

    def client(self) -> Client:
        return Client(self.path)

    def begin(self, content: object, path: str = "/v2/models/m/outcomes") -> socket.socket:
        """Send a body, JSON unless it is bytes; return the connection, for `end`."""
        body = content if isinstance(content, bytes) else msgspec.json.encode(content)
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(LIMIT_S)
        connection.connect(str(self.path))
        head = f"POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        return connection

    def end(self, connection: socket.socket) -> tuple[int, dict[str, Any]]:
        """Return status and answer."""
        exchange, reply = Exchange(), None
        with connection:
            while reply is None:
                data = connection.recv(65536)
                assert data, self._log.read_text()
                reply = exchange.feed(data)
        answer: dict[str, Any] = msgspec.json.decode(reply.body)
        return reply.status, answer

    def post(self, content: object, path: str = "/v2/models/m/outcomes") -> tuple[int, dict[str, Any]]:
        """Send a body, JSON unless it is bytes; return status and answer."""
        return self.end(self.begin(content, path))

    def tell(self, text: str, **values: object) -> tuple[int, dict[str, Any]]:
        """Tell one outcome; return status and answer."""
        return self.post(one(text, **values))

    def totals(self) -> Mapping[str, tuple[int, float]]:
        """Return (n, sum) by metric, over all arms and buckets, as the supervisor reads them."""
        totals: dict[str, tuple[int, float]] = {}
        for epoch in read_sums(self.database).epochs:
            for sums in epoch.sums:
                n, total = totals.get(sums.metric, (0, 0.0))
                totals[sums.metric] = (n + sums.n, total + sums.sum)
        return totals

    def _send(self, message: ToServing) -> None:
        self._channel.write(msgspec.json.encode(message) + b"\n")
        self._channel.flush()

    def written_bytes(self) -> int:
        """Return how many bytes the process has had written to the disk so far."""
        lines = Path(f"/proc/{self.process.pid}/io").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes"))


def limit_file_size(process: "subprocess.Popen[bytes]", size_bytes: int) -> None:
    """Let no file of a process grow beyond a size, as a full disk would; a negative size lifts the limit."""
    limit = resource.RLIM_INFINITY if size_bytes < 0 else size_bytes
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
