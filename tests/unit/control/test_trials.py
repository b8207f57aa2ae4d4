"""Trials that do not end with a verdict, on a real state folder: the version waits, longer each time."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.control import deferral, trials
from edge_agent.documents.plan import VersionPlan
from support.supervisor import Supervisor


@pytest.fixture
def it(tmp_path: Path) -> Iterator[Supervisor]:
    """One that serves version 1."""
    supervisor = Supervisor.serving_one(tmp_path / "state")
    yield supervisor
    supervisor.close()


@pytest.mark.parametrize("error", [ValueError("signal 35"), OSError("too many processes")])
def test_a_probe_that_fails_itself_waits_and_is_held_against_nobody(
    it: Supervisor, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(trials, "try_version", fails)
    monkeypatch.setattr(deferral, "probe_delay_s", lambda tries, _: 100.0 * tries)
    version = it.version("a", "2")
    it.fetch(2, version)
    it.probe(version)
    [problem] = it.deployer.problems
    assert problem.startswith("a 2 could not be tried, and will be again: The probe ")
    assert it.value.quarantine == {}
    it.deployer.step()
    assert it.deployer.probing is None
    assert it.deployer._situation().is_deferred


def test_what_has_passed_at_last_waits_no_more(it: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    verdicts = iter(["inconclusive", "passed"])

    async def says(*_: object) -> trials.ipc.ProbeVerdict:
        return trials.ipc.ProbeVerdict(outcome=next(verdicts), reason="It is busy.")  # type: ignore[arg-type]

    monkeypatch.setattr(trials, "try_version", says)
    version: VersionPlan = it.version("a", "2")
    it.fetch(2, version)
    it.probe(version)
    assert it.deployer.problems == ["a 2 could not be tried, and will be again: It is busy."]
    it.probe(version)
    assert it.deployer.problems == []
