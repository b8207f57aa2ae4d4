"""The machine's clock is at 1970 or 2100, or the store is down until all metadata has expired."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.agent import AgentProcess, wait_until
from support.fleet import Fleet
from support.host import lacking, need_program

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

LIBRARIES = ("/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/lib64/faketime/libfaketimeMT.so.1")


class Clock:
    """The clock of processes that are started with its environment; time goes on from where it is set."""

    def __init__(self, file: Path) -> None:
        need_program("faketime", "faketime")
        libraries = [path for pattern in LIBRARIES for path in Path("/").glob(pattern[1:])]
        if not libraries:
            lacking("libfaketime is not where Debian's package faketime puts it.")
        self._file = file
        self.set("+0")
        self.environment = {
            "LD_PRELOAD": str(libraries[0]),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, when: str) -> None:
        """Set it, `@YYYY-MM-DD hh:mm:ss` or relative to the true time, as `+6d`."""
        self._file.write_text(when)


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path / "fleet")


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path / "clock")


@pytest.fixture
def agent(tmp_path: Path, fleet: Fleet, clock: Clock) -> Iterator[AgentProcess]:
    store = {"url": fleet.url, "root": str(fleet.root), "poll_interval_s": 3600}
    agent = AgentProcess(tmp_path / "device", {"device": {"id": "device"}, "store": store}, clock.environment)
    fleet.release("1", 2.0)
    with agent:
        wait_until(lambda: agent.reported().serial == 1, "the first version serves")
        yield agent


def told(agent: AgentProcess, word: str) -> list[str]:
    """Return the problems that name a word."""
    return [problem for problem in agent.reported().problems if word in problem]


def start_again(agent: AgentProcess) -> None:
    agent.stop()
    agent.start()
    wait_until(lambda: agent.reported().versions, "it serves")


def test_at_1970_it_serves_says_so_and_takes_what_is_new(
    agent: AgentProcess, fleet: Fleet, clock: Clock
) -> None:
    clock.set("@1970-01-02 00:00:00")
    start_again(agent)
    assert agent.factor() == (2.0, "1")
    fleet.release("2", 3.0)
    assert agent.sync()["status"] == "activated"
    assert agent.factor() == (3.0, "2")
    assert told(agent, "clock")
    clock.set("+0")
    agent.sync(force=True)
    assert not told(agent, "clock")


def test_at_2100_it_serves_says_so_and_recovers_with_the_clock(
    agent: AgentProcess, fleet: Fleet, clock: Clock
) -> None:
    clock.set("@2100-01-01 00:00:00")
    start_again(agent)
    assert agent.factor() == (2.0, "1")
    fleet.release("2", 3.0)
    outcome = agent.sync()
    assert outcome["status"] == "refused"
    assert "clock" in outcome["message"]
    assert told(agent, "clock")
    assert agent.factor() == (2.0, "1")
    clock.set("+0")
    assert agent.sync()["status"] == "activated"
    assert agent.factor() == (3.0, "2")
    assert not agent.reported().problems


def test_while_the_store_is_down_it_serves_and_warns_before_and_after_all_has_expired(
    agent: AgentProcess, fleet: Fleet, clock: Clock, tmp_path: Path
) -> None:
    fleet.store.rename(tmp_path / "away")
    assert agent.sync()["status"] == "failed"
    assert not told(agent, "expire")
    clock.set("+6d")
    agent.sync()
    assert told(agent, "expire")
    clock.set("+400d")
    start_again(agent)
    agent.sync()
    assert told(agent, "expired")
    assert agent.factor() == (2.0, "1")
    clock.set("+0")
    (tmp_path / "away").rename(fleet.store)
    fleet.release("2", 3.0)
    assert agent.sync()["status"] == "activated"
    assert not agent.reported().problems
