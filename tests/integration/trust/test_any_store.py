"""Whatever a store without the keys serves, the disk loses and the clock says: never back, and never stuck."""

import shutil
import tempfile
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from edge_agent.control.fetch import Polled, StoreFileMissingError
from edge_agent.control.trust import Trust
from edge_agent.documents.errors import EdgeAgentError, StoreUnreachableError
from edge_agent.documents.timestamp_notes import timestamp_notes
from edge_agent.policy.trusted_time import Times
from edge_agent.store.blobs import Stream
from support.tuf_repository import TOP_LEVEL, TufRepository

NOW: Final = datetime.now(UTC)
CLOCKS: Final = (
    NOW,
    NOW + timedelta(days=3),
    NOW + timedelta(days=29),
    datetime(1970, 1, 1, tzinfo=UTC),
    datetime(2100, 1, 1, tzinfo=UTC),
)


class LyingStore:
    """Gives out a repository's files, or what is put in their place; None stands for one that is withheld."""

    def __init__(self, repository: TufRepository) -> None:
        self.repository = repository
        self.lies: dict[str, bytes | None] = {}

    def get(self, path: str, max_bytes: int) -> bytes:
        content = self.lies.get(path, self.repository.files.get(path))
        if content is None:
            raise StoreFileMissingError(f"The store has no {path}.")
        if len(content) > max_bytes:
            raise StoreUnreachableError(f"{path} is too long.")
        return content

    def poll(self, path: str, max_bytes: int, etag: str | None) -> Polled:
        raise NotImplementedError

    def stream(self, path: str, offset: int) -> AbstractContextManager[Stream]:
        raise NotImplementedError

    def close(self) -> None:
        pass


class AnyStore(RuleBasedStateMachine):
    """A device's trust folder between an honest owner, a hostile server, a bad disk and a wrong clock."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="trust-"))
        self.repository = TufRepository()
        self.bootstrap = self.repository.published["root"][0]
        self.store = LyingStore(self.repository)
        self.seen = dict.fromkeys(TOP_LEVEL, 0)
        self.newest = 0
        self.publish(True)

    @rule(with_notes=st.booleans())
    def publish(self, with_notes: bool) -> None:
        """The owner signs a new state, right after the last: time hardly passes."""
        repository = self.repository
        self.newest += 1
        repository.add_target("targets", "file", str(self.newest).encode())
        notes = timestamp_notes(NOW, repository.root.version) if with_notes else {}
        repository.timestamp.unrecognized_fields = notes
        repository.publish("targets", "snapshot", "timestamp")

    @precondition(lambda self: self.newest % 4 == 0)  # seldom, for it takes the old states out of play
    @rule(role=st.sampled_from(["timestamp", "snapshot", "root"]))
    def replace_keys(self, role: str) -> None:
        """The owner replaces a key; versions go on growing, for a thief has signed none here."""
        signers = list(self.repository.signers["root"])
        self.repository.replace_keys(role)
        if role == "root":
            self.repository.signers["root"] += signers
        self.repository.publish("root", "targets", "snapshot", "timestamp")

    @rule(data=st.data())
    def lie(self, data: st.DataObject) -> None:
        """The server gives out something else under some name; a few lies at a time let looks come far."""
        if len(self.store.lies) > 1:
            self.store.lies.clear()
        files = self.repository.files
        path = data.draw(st.sampled_from(sorted([*files, self._next_root()])))
        role = data.draw(st.sampled_from(TOP_LEVEL))
        content = data.draw(st.sampled_from(self.repository.published[role]))
        kinds = [
            None,
            b"",
            b"{",
            content,
            content[:-7],
            content.replace(b'"expires": "2', b'"expires": "3'),
            b" " * 10**6,
        ]
        self.store.lies[path] = data.draw(st.sampled_from(kinds))

    def _next_root(self) -> str:
        return f"metadata/{self.repository.root.version + 1}.root.json"

    @rule(data=st.data(), is_lost=st.booleans())
    def go_back(self, data: st.DataObject, is_lost: bool) -> None:
        """The server gives out an old state, whole, perhaps just when the disk has lost what was trusted."""
        if is_lost:
            (self.folder / "current").unlink(missing_ok=True)
        timestamps = self.repository.published["timestamp"]
        self.store.lies = {"metadata/timestamp.json": data.draw(st.sampled_from(timestamps))}

    @rule()
    def relent(self) -> None:
        """The server is honest again."""
        self.store.lies.clear()

    @rule(loss=st.sampled_from(["link", "folder", "zeros", "half"]), data=st.data())
    def lose(self, loss: str, data: st.DataObject) -> None:
        """The disk loses trusted metadata; the flushed record of versions beside it is not what it loses."""
        current = self.folder / "current"
        files = sorted(path for path in current.rglob("*.json"))
        if not files:
            return
        if loss == "link":
            current.unlink()
        elif loss == "folder":
            shutil.rmtree(current.resolve())
        else:
            path = data.draw(st.sampled_from(files))
            content = path.read_bytes()
            path.write_bytes(b"\0" * len(content) if loss == "zeros" else content[: len(content) // 2])

    @rule(clock=st.sampled_from(CLOCKS))
    def look(self, clock: datetime) -> None:
        """What is accepted was published, has not expired, and is no older than what was seen."""
        with suppress(EdgeAgentError):
            self._look(clock)

    @rule()
    def look_while_all_is_well(self) -> None:
        """Nothing that went before keeps a device from the newest state."""
        self.store.lies.clear()
        assert self._look(NOW) == self.newest

    def _look(self, clock: datetime) -> int:
        with Trust(self.folder, self.store, self.bootstrap, Times(clock)) as trust:
            trust.refresh()
            content = trust.target("file")
            expires = min(trust.expires_s.values())
            assert expires > trust.times.now.timestamp() >= clock.timestamp()
        for role in TOP_LEVEL:
            file = (self.folder / "current" / f"{role}.json").read_bytes()
            version = self.repository.published[role].index(file)
            assert version >= self.seen[role], f"{role} went back"
            self.seen[role] = version
        return int(content or b"0")

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.look_while_all_is_well()
            shutil.rmtree(self.folder)


TestAnyStore = AnyStore.TestCase
TestAnyStore.settings = settings(
    max_examples=100, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestAnyStore = pytest.mark.slow(TestAnyStore)
