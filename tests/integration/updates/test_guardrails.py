"""A new version on trial: real agents, a store that is switched off, and versions that go wrong in several
ways."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from edge_agent.documents.errors import EdgeAgentError
from support.agent import AgentProcess, wait_until
from support.fleet import Fleet

PLUGIN = Path(__file__).parents[2] / "support" / "plugin"
BACK_WITHIN_S = 10.0
"""From the breach until the old version serves again."""


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path / "fleet")


@pytest.fixture
def agent(tmp_path: Path, fleet: Fleet) -> Iterator[AgentProcess]:
    store = {"url": fleet.url, "root": str(fleet.root), "poll_interval_s": 3600}
    settings = {"device": {"id": "device"}, "store": store}
    with AgentProcess(tmp_path / "device", settings, {"PYTHONPATH": str(PLUGIN)}) as process:
        yield process


class App:
    """Asks one model again and again with inputs that no golden sample has."""

    def __init__(self, agent: AgentProcess, model: str) -> None:
        self._agent = agent
        self._model = model
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"app of {model}")
        self.answers: list[str] = []
        """The version of each answer."""
        self.failures: list[str] = []
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        value = 100.0
        with self._agent.client() as client:
            while not self._stop.wait(0.004):
                value = 100.0 + (value - 99.0) % 500  # another input, so that no result is remembered
                try:
                    result = client.infer(self._model, {"x": np.full((1, 3), value, np.float32)}, timeout_s=20)
                except EdgeAgentError as error:
                    self.failures.append(str(error))
                else:
                    self.answers.append(result.model_version)


@contextmanager
def asking(agent: AgentProcess, *models: str) -> Iterator[dict[str, App]]:
    apps = {model: App(agent, model) for model in models}
    try:
        yield apps
    finally:
        for app in apps.values():
            app.stop()


def on_trial(agent: AgentProcess, fleet: Fleet, behaviour: str, *, run_limit_s: float = 30.0) -> None:
    """Activate a version 2 of `m` that goes wrong, and switch the store off."""
    fleet.publish_faulty("2", behaviour, run_limit_s=run_limit_s)
    fleet.deploy(m="2")
    assert agent.sync()["status"] == "activated"
    fleet.store.rename(fleet.folder / "away")


def start(agent: AgentProcess, fleet: Fleet) -> None:
    fleet.publish_faulty("1", "2.0 slow=0.001", name="m")
    fleet.publish("1", 5.0, name="other")
    fleet.deploy(m="1", other="1")
    agent.sync()


def went_back(agent: AgentProcess) -> str:
    """Wait until the old version serves again; return why, after looking at what was told of it."""
    wait_until(lambda: agent.events("rolled_back"), "the old version serves again", 40)
    [breached], [back] = agent.events("breached"), agent.events("rolled_back")
    assert back.time_s - breached.time_s < BACK_WITHIN_S
    assert (breached.version, breached.actor) == ("2", "agent")
    assert breached.message in back.message
    reported = agent.reported()
    assert reported.serial == 1
    assert reported.bake is None
    assert reported.held is not None
    assert breached.message in reported.held
    assert any(breached.message in problem for problem in reported.problems)
    return breached.message


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("3.0 fails=0.3", "requests failed, more than 5 %"),
        ("3.0 slow=0.05", "the p99 of"),
        ("3.0 crashes", "the serving process was killed by SIGSEGV"),
        ("3.0 hangs", "the serving process did not return"),
    ],
)
@pytest.mark.slow
def test_what_breaches_its_guardrails_is_taken_back_without_the_store(
    agent: AgentProcess, fleet: Fleet, behaviour: str, reason: str
) -> None:
    start(agent, fleet)
    with asking(agent, "m", "other") as apps:
        wait_until(lambda: len(apps["m"].answers) > 150, "the old version has answered for a while")
        on_trial(agent, fleet, behaviour, run_limit_s=1.0)
        assert reason in went_back(agent)
        done = len(apps["m"].answers)
        wait_until(lambda: len(apps["m"].answers) > done + 50, "the old version answers")
        assert set(apps["m"].answers[-40:]) == {"1"}
        survives = "fails" in behaviour or "slow" in behaviour
    # Beyond what was in flight in a serving process that ended, nothing of others is lost.
    assert len(apps["other"].failures) <= (0 if survives else 1), apps["other"].failures
    assert agent.events("quarantined") == []


@pytest.mark.slow
def test_what_is_held_stays_away_until_there_is_something_newer(agent: AgentProcess, fleet: Fleet) -> None:
    start(agent, fleet)
    with asking(agent, "m"):
        on_trial(agent, fleet, "3.0 fails=0.5")
        went_back(agent)
    (fleet.folder / "away").rename(fleet.store)
    outcome = agent.sync(force=True)
    [breached] = agent.events("breached")
    assert (outcome["status"], outcome["message"]) == ("unchanged", f"Not activated: {breached.message}")
    assert agent.reported().problems[-1].endswith("A newer deployment or `edge-agent rollback` ends that.")
    assert agent.stop() == 0
    agent.start()
    agent.sync(force=True)
    assert agent.factor() == (2.0, "1")
    assert agent.reported().held is not None
    fleet.release("3", 4.0)
    assert agent.sync()["status"] == "activated"
    assert agent.reported().held is None
    assert agent.factor() == (4.0, "3")


def test_an_operator_may_bring_back_what_is_held(agent: AgentProcess, fleet: Fleet) -> None:
    start(agent, fleet)
    with asking(agent, "m"):
        on_trial(agent, fleet, "3.0 fails=0.5")
        went_back(agent)
    assert agent.ask("rollback")["serial"] == 2
    assert agent.factor() == (3.0, "2")


@pytest.mark.slow
def test_a_trial_ends_well_and_goes_on_after_a_restart(agent: AgentProcess, fleet: Fleet) -> None:
    start(agent, fleet)
    fleet.publish("2", 3.0)
    fleet.deploy(m="2", bake_s=6)
    with asking(agent, "m") as apps:
        agent.sync()
        wait_until(lambda: _requests(agent) > 20, "the new version has answered")
        agent.stop()
        agent.start()
        bake = agent.reported().bake
        assert bake is not None
        assert (bake.serial, bake.versions[0].version) == (2, "2")
        assert bake.versions[0].requests > 20, "what was counted before the restart is gone"
        assert bake.left_s < 6
        wait_until(lambda: agent.events("baked"), "the trial is over")
        assert apps["m"].answers[-1] == "2"
    assert agent.reported().bake is None
    assert agent.events("breached") == []


def test_an_operator_rolls_back_in_the_bake_time(agent: AgentProcess, fleet: Fleet) -> None:
    start(agent, fleet)
    fleet.release("2", 3.0)
    agent.sync()
    assert agent.reported().bake is not None
    assert agent.ask("rollback")["serial"] == 1
    assert agent.reported().bake is None
    assert agent.factor() == (2.0, "1")


def test_what_follows_a_version_on_trial_goes_back_to_the_last_good_one(
    agent: AgentProcess, fleet: Fleet
) -> None:
    start(agent, fleet)
    fleet.release("1b", 2.5)
    agent.sync()
    with asking(agent, "m"):
        fleet.publish_faulty("2", "3.0 fails=0.5")
        fleet.deploy(m="2")
        agent.sync()
        wait_until(lambda: agent.events("rolled_back"), "the old version serves again")
    assert agent.reported().serial == 1
    assert agent.factor() == (2.0, "1")


def _requests(agent: AgentProcess) -> int:
    bake = agent.reported().bake
    return bake.versions[0].requests if bake is not None and bake.versions else 0
