"""What becomes of a version whose files the probe could not read."""

import asyncio
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.control import trials
from edge_agent.documents import ipc
from edge_agent.documents.plan import Plan, VersionPlan, with_id
from edge_agent.documents.settings import Settings
from support.supervisor import Supervisor

UNREADABLE = ipc.ProbeVerdict(outcome="inconclusive", reason="Input/output error", is_unreadable=True)


@pytest.fixture
def it(tmp_path: Path) -> Iterator[Supervisor]:
    supervisor = Supervisor(tmp_path / "state")
    yield supervisor
    supervisor.close()


def tried(it: Supervisor, monkeypatch: pytest.MonkeyPatch, verdict: ipc.ProbeVerdict) -> VersionPlan:
    """Have a version fetched and tried, with this verdict."""

    async def answer(version: VersionPlan, settings: Settings) -> ipc.ProbeVerdict:
        return verdict

    monkeypatch.setattr(trials, "try_version", answer)
    version = it.version("a", "1")
    it.deployer._target.adopt(with_id(Plan(serial=1, versions=(version,))))
    asyncio.run(it.deployer._trials.run(version))
    return version


def test_a_file_that_the_disk_does_not_give_back_is_fetched_again(
    it: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_file = Path.open

    def open_or_fail(path: Path, *arguments: Any, **more: Any) -> Any:
        if path.parent.parent == it.layout.blobs and arguments == ("rb",):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return open_file(path, *arguments, **more)

    monkeypatch.setattr(Path, "open", open_or_fail)
    version = tried(it, monkeypatch, UNREADABLE)
    assert not it.blobs.has(version.sha256)
    assert it.value.target is None
    assert it.deployer.problems == []
    assert [event.message for event in it.events("state_damaged")] == [
        "Its file is damaged or gone, and is fetched again."
    ]


@pytest.mark.parametrize("verdict", [UNREADABLE, ipc.ProbeVerdict(outcome="inconclusive", reason="No memory")])
def test_a_version_with_sound_files_waits_for_the_next_try(
    it: Supervisor, monkeypatch: pytest.MonkeyPatch, verdict: ipc.ProbeVerdict
) -> None:
    version = tried(it, monkeypatch, verdict)
    assert it.blobs.has(version.sha256)
    assert it.value.target is not None
    assert it.deployer._situation().is_deferred
    assert it.value.quarantine == {}
