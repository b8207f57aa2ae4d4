"""A store that serves old, mixed, endless, slow or garbage files: each is refused, and the device serves on."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.agent import AgentProcess, wait_until
from support.bad_store import Handler, Mischief, Server
from support.fleet import Fleet

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

QUICK = {"timeout_s": 1.0, "metadata_deadline_s": 4.0, "poll_interval_s": 3600}
LIMIT_S = 25.0
"""How long a look at a store that is never done may take."""


class Store:
    """A fleet's store behind a server that can answer with anything."""

    def __init__(self, folder: Path) -> None:
        self.fleet = Fleet(folder / "fleet")
        self.before = folder / "before"
        self.fleet.release("1", 2.0)
        self.server = Server(self.fleet.store, Path("none"))
        self.number = 1

    def release(self) -> None:
        """Deploy one more version; `before` is the store without it."""
        shutil.rmtree(self.before, ignore_errors=True)
        shutil.copytree(self.fleet.store, self.before)
        self.number += 1
        self.fleet.release(f"{self.number}", 1.0 + self.number, padding_bytes=100_000)

    def newest(self, role: str) -> Path:
        """Return the newest metadata file of a role."""
        if role == "timestamp":
            return self.fleet.store / "metadata/timestamp.json"
        return max(
            (self.fleet.store / "metadata").glob(f"*.{role}.json"),
            key=lambda path: int(path.name.split(".")[0]),
        )

    def target(self, name: str) -> Path:
        """Return a signed document as it was published last."""
        return max(self.fleet.store.glob(f"targets/**/*{name}"), key=lambda path: path.stat().st_mtime_ns)

    def blob(self) -> Path:
        return self.fleet.blob("m", f"{self.number}")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    store = Store(tmp_path_factory.mktemp("store"))
    with store.server:
        yield store


@pytest.fixture(scope="module")
def agent(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    settings = {"url": store.server.url, "root": str(store.fleet.root), **QUICK}
    folder = tmp_path_factory.mktemp("agent")
    with AgentProcess(folder / "device", {"device": {"id": "device"}, "store": settings}) as agent:
        wait_until(lambda: agent.reported().serial == 1, "the first version serves")
        yield agent


def garbage(handler: Handler, content: bytes, offset: int) -> None:
    handler.file(os.urandom(len(content)), offset)


def cut_short(handler: Handler, content: bytes, offset: int) -> None:
    handler.file(content[: len(content) // 2], 0)


def endless(handler: Handler, content: bytes, offset: int) -> None:
    handler.answer(200, content, length=2**40)
    for _ in range(20_000):
        handler.wfile.write(bytes(65_536))


def slow(handler: Handler, content: bytes, offset: int) -> None:
    handler.answer(200, length=len(content))
    for index in range(60):
        handler.wfile.write(content[index : index + 1])
        handler.wfile.flush()
        time.sleep(0.5)


def silent(handler: Handler, content: bytes, offset: int) -> None:
    time.sleep(8.0)
    handler.close_connection = True


def of(path: Path) -> Mischief:
    """Answer with another file."""
    return lambda handler, content, offset: handler.file(path.read_bytes(), offset)


VICTIMS: dict[str, Callable[[Store], Path]] = {
    "timestamp": lambda store: store.newest("timestamp"),
    "snapshot": lambda store: store.newest("snapshot"),
    "delegated": lambda store: store.newest("deployments"),
    "deployment": lambda store: store.target("default.json"),
    "blob": lambda store: store.blob(),
}
MISCHIEF: dict[str, Mischief] = {
    "garbage": garbage,
    "cut short": cut_short,
    "endless": endless,
    "slow": slow,
    "silent": silent,
}


def refuses(agent: AgentProcess, store: Store) -> str:
    """Look at the store, which must be refused in a sentence and change nothing; return the sentence."""
    running = agent.factor()
    began_s = time.monotonic()
    outcome = agent.sync(force=True)
    assert outcome["status"] in ("failed", "refused"), outcome
    assert time.monotonic() - began_s < LIMIT_S
    message = str(outcome["message"])
    assert message.endswith(".")
    assert not any(word in message for word in ("\n", "Traceback", "error of its own")), message
    assert agent.factor() == running
    assert message in agent.reported().problems
    return message


def recovers(agent: AgentProcess, store: Store) -> None:
    """Once the store is what it should be, its newest version is served."""
    store.server.victim, store.server.mischief = Path("none"), None
    store.server.folder = store.fleet.store
    assert agent.sync(force=True)["status"] == "activated"
    assert agent.factor() == (1.0 + store.number, f"{store.number}")
    assert not agent.reported().problems
    assert not agent.events("quarantined")


@pytest.mark.parametrize("kind", MISCHIEF)
@pytest.mark.parametrize("victim", VICTIMS)
def test_a_file_that_is_not_what_was_signed_is_refused(
    agent: AgentProcess, store: Store, victim: str, kind: str
) -> None:
    store.release()
    store.server.victim, store.server.mischief = VICTIMS[victim](store), MISCHIEF[kind]
    print(f"{victim} {kind}: {refuses(agent, store)}")
    recovers(agent, store)


def test_an_old_store_is_refused(agent: AgentProcess, store: Store) -> None:
    store.release()
    assert agent.sync()["status"] == "activated"
    store.server.folder = store.before
    print(refuses(agent, store))
    store.server.folder = store.fleet.store
    store.release()
    recovers(agent, store)


@pytest.mark.parametrize("role", ["snapshot", "deployments", "m-m"])
def test_a_store_of_two_states_is_refused(agent: AgentProcess, store: Store, role: str) -> None:
    """New metadata names new files; what is served under their names is that of the state before."""
    store.release()
    newest = store.newest(role)
    number = int(newest.name.split(".")[0])
    older = newest.with_name(f"{number - 1}.{role}.json")
    assert older.exists()
    store.server.victim, store.server.mischief = newest, of(older)
    print(f"{role}: {refuses(agent, store)}")
    recovers(agent, store)


def test_another_models_file_under_a_name_is_refused(agent: AgentProcess, store: Store) -> None:
    old = store.blob()
    store.release()
    store.server.victim, store.server.mischief = store.blob(), of(old)
    print(refuses(agent, store))
    recovers(agent, store)


def test_while_it_is_down_it_serves_and_asks_less_and_less(agent: AgentProcess, store: Store) -> None:
    store.release()
    store.server.folder = store.before.with_name("gone")
    print(refuses(agent, store))
    assert len(agent.events("sync_failed")) == len({event.message for event in agent.events("sync_failed")})
    recovers(agent, store)
