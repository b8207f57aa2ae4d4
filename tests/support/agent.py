"""The agent as a process, as systemd or a person would start it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np

from edge_agent.cli import admin_client
from edge_agent.client import Client
from edge_agent.documents.errors import EdgeAgentError
from edge_agent.documents.messages import Event, Reported

LIMIT_S = 30.0
CHECKOUT = Path(__file__).parents[2]


def wait_until(condition: Callable[[], Any], what: str, limit_s: float = LIMIT_S) -> Any:
    """Return the condition's first true value; fails the test if none comes in time."""
    deadline = time.monotonic() + limit_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {limit_s:g} s: {what}")
        time.sleep(0.02)


class AgentProcess:
    """`edge-agent run` with a state folder of its own."""

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Mapping[str, Any]],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.runtime = folder / "run"
        self.config = folder / "config.toml"
        self.log = folder / "log"
        folder.mkdir(parents=True, exist_ok=True)
        self.settings: dict[str, dict[str, Any]] = {
            "paths": {"state": str(self.state), "runtime": str(self.runtime)},
            "engines": {"threads": 1},
        }
        for section, values in settings.items():
            self.settings[section] = {**self.settings.get(section, {}), **values}
        self.environment = {**os.environ, **(environment or {})}
        # The code of this checkout, wherever else the package may be installed from.
        path = [str(CHECKOUT), *filter(None, [self.environment.get("PYTHONPATH")])]
        self.environment["PYTHONPATH"] = os.pathsep.join(path)
        self.wrapper: tuple[str, ...] = ()
        """A command that runs the agent's, for example in a namespace of its own."""
        self.inherited: tuple[int, ...] = ()
        """Descriptors that are open in the agent's process, too."""
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def infer_socket(self) -> Path:
        return self.runtime / "infer.sock"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, wait: bool = True) -> None:
        """Start it and wait until it answers."""
        self.write_settings()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.wrapper, Path(sys.executable).parent / "edge-agent", "run", "--config", self.config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                pass_fds=self.inherited,
            )
        if wait:
            try:
                wait_until(self.is_ready, "the agent is ready")
            except BaseException:
                self.kill()
                print(self.log.read_text())
                raise

    def write_settings(self) -> None:
        self.config.write_text(_toml(self.settings))

    def is_ready(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"the agent ended with {self.process.returncode}:\n{self.log.read_text()}")
        try:
            with self.client() as client:
                return self.ask("status")["process"]["serving_pid"] is not None and client.ready()
        except EdgeAgentError:
            return False

    def stop(self) -> int:
        """Stop it as systemd would; return its exit code."""
        assert self.process is not None
        self.process.terminate()
        try:
            return self.process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"the agent does not stop:\n{self.log.read_text()}") from None

    def kill(self) -> None:
        """End it as a power cut would: the supervisor at once, serving with it."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(LIMIT_S)

    def ask(self, verb: str, **arguments: Any) -> Any:
        return admin_client.call(self.runtime / "admin.sock", verb, arguments, timeout_s=LIMIT_S)

    def sync(self, **arguments: Any) -> dict[str, Any]:
        result: dict[str, Any] = self.ask("sync", **{"wait": True, "force": False, "folder": None, **arguments})
        return result

    def reported(self) -> Reported:
        return msgspec.convert(self.ask("status")["reported"], Reported)

    def events(self, kind: str | None = None) -> list[Event]:
        found = msgspec.convert(self.ask("events", limit=500)["events"], list[Event])
        return [event for event in found if kind in (None, event.type)]

    def client(self) -> Client:
        return Client(str(self.infer_socket))

    def factor(self, model: str = "m") -> tuple[float, str]:
        """Ask the model for 1 * factor; return the factor and the version that answered."""
        with self.client() as client:
            result = client.infer(model, {"x": np.ones((1, 3), np.float32)})
        return round(float(result.outputs["y"][0, 0]), 3), result.model_version


def _toml(settings: Mapping[str, Mapping[str, Any]]) -> str:
    lines = []
    for section, values in settings.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {msgspec.json.encode(value).decode()}" for key, value in values.items()]
    return "\n".join(lines) + "\n"
