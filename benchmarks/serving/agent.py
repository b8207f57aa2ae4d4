"""The agent's serving process, started as its supervisor starts it, for one model."""

import dataclasses
import hashlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from edge_agent.documents.ipc import Applied, Apply, Configure, FromServing, Ready
from edge_agent.documents.plan import BatchingPlan, ModelPlan, Plan, VersionPlan, with_id
from edge_agent.documents.settings import CacheSettings, EngineSettings, HttpSettings, OutcomeSettings
from edge_agent.telemetry.health_page import HealthPage

MODEL = "bench"


@dataclass(frozen=True)
class Agent:
    """Where a serving process answers."""

    path: Path
    port: int


@contextmanager
def serving(
    folder: Path,
    model: Path,
    *,
    threads: int = 0,
    cpus: set[int] | None = None,
    batching: BatchingPlan | None = None,
    **settings: Any,
) -> Iterator[Agent]:
    """Serve a model as `bench`; `cpus` are those that the process may use, `settings` fields of Configure."""
    path = folder / "infer.sock"
    ours, theirs = socket.socketpair()
    page = HealthPage.create()
    with socket.socket(socket.AF_UNIX) as unix, socket.create_server(("127.0.0.1", 0)) as tcp, ours, theirs:
        unix.bind(str(path))
        unix.listen(4096)
        command = [sys.executable, "-m", "edge_agent.serving.server", "--channel", str(theirs.fileno())]
        command += ["--health", str(page.fd), "--listen", f"infer:{unix.fileno()},http:{tcp.fileno()}"]
        descriptors = [theirs.fileno(), page.fd, unix.fileno(), tcp.fileno()]
        with pinned(cpus):
            process = subprocess.Popen(command, pass_fds=descriptors, stderr=subprocess.DEVNULL)
        try:
            with ours.makefile("rwb") as channel:
                _begin(channel, _configure(folder, threads, settings), Ready)
                _begin(channel, _apply(model, batching), Applied)
                yield Agent(path, tcp.getsockname()[1])
        finally:
            process.kill()
            process.wait()
            page.close()


@contextmanager
def pinned(cpus: set[int] | None) -> Iterator[None]:
    """Have what is started in here use these CPUs alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus or before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _configure(folder: Path, threads: int, settings: dict[str, Any]) -> Configure:
    usual: dict[str, Any] = {"http": HttpSettings(), "cache": CacheSettings(), "outcomes": OutcomeSettings()}
    return Configure(
        device="bench",
        engines=EngineSettings(threads=threads),
        outcomes_db=str(folder / "outcomes.db"),
        secret=bytes(32).hex(),
        **usual | settings,
    )


def _apply(model: Path, batching: BatchingPlan | None) -> Apply:
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    engine = model.suffix[1:]
    version = VersionPlan(MODEL, "1", engine, "fp32", digest, str(model), model.stat().st_size, (), ())
    policies: tuple[ModelPlan, ...] = ()
    if batching is not None:
        version = dataclasses.replace(version, max_batch=1024)
        policies = (ModelPlan(MODEL, batching=batching),)
    plan = with_id(Plan(versions=(version,), policies=policies))
    return Apply(plan=plan, slots={version.key: 0})


def _begin(channel: Any, message: Any, answer: type[Any]) -> None:
    channel.write(msgspec.json.encode(message) + b"\n")
    channel.flush()
    while not isinstance(found := msgspec.json.decode(channel.readline(), type=FromServing), answer):
        assert type(found).__name__ != "Refused", found
