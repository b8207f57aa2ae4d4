"""Supervisor, serving, sync and probe are killed at random moments, under load and under updates."""

import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from edge_agent.store.layout import StateLayout
from support.acknowledged import check_files
from support.agent import AgentProcess, wait_until
from support.fleet import Fleet
from support.held_sockets import hold, wrapper
from support.traffic import Asker, Failure, Updates, factor_of, first_after, stored_outcomes

KILLS = int(os.environ.get("KILLS", "80"))
SEED = int(os.environ.get("FAULT_SEED", "6"))
VICTIMS = {"supervisor": None, "serving": "serving.server", "sync": "control.sync", "probe": "control.probe"}
VERSIONS = ["1", "2", "3", "4", "5", "6"]
ASKERS = 4
ASKED_AGAIN = "the next one answers"
"""What a serving process says that has to stop before it was told what to serve: its supervisor was killed in
the milliseconds between its first breath and its first plan."""
BACK_LIMIT_S = 20.0
"""Far above what is measured: CI's machines are busy. What is measured is printed."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300 + 6 * KILLS)]


@dataclass(frozen=True)
class Kill:
    """Who was killed when."""

    victim: str
    time_ns: int


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    fleet = Fleet(tmp_path / "fleet")
    for version in VERSIONS:
        fleet.publish(version, factor_of(version), padding_bytes=200_000)
    fleet.deploy(m="1")
    return fleet


@pytest.fixture
def agent(tmp_path: Path, fleet: Fleet) -> Iterator[AgentProcess]:
    store = {"url": fleet.url, "root": str(fleet.root), "poll_interval_s": 2}
    agent = AgentProcess(tmp_path / "device", {"device": {"id": "device"}, "store": store})
    with hold(agent.infer_socket) as sock:
        agent.wrapper = wrapper(sock)
        agent.inherited = (sock.fileno(),)
        with agent:
            yield agent


def find(agent: AgentProcess, victim: str) -> psutil.Process | None:
    """Return the process of a kind, if there is one now."""
    assert agent.process is not None
    supervisor = psutil.Process(agent.process.pid)
    module = VICTIMS[victim]
    if module is None:
        return supervisor
    for child in supervisor.children():
        try:
            if any(module in word for word in child.cmdline()):
                return child
        except psutil.NoSuchProcess:
            continue
    return None


def kill_one(agent: AgentProcess, dice: random.Random) -> Kill | None:
    """Kill a process of a random kind at a random moment of its life; None if it ended before."""
    victim = dice.choice(list(VICTIMS))
    delay_s = dice.random() * (0.3 if victim in ("sync", "probe") else 1.0)
    try:
        process = wait_until(lambda: find(agent, victim), victim, 4.0)
    except AssertionError:
        return None
    time.sleep(delay_s)
    kill = Kill(victim, time.monotonic_ns())
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return None
    if victim == "supervisor":
        assert agent.process is not None
        agent.process.wait(10)
        agent.start(wait=False)
    return kill


def test_kills_break_nothing_that_was_promised(agent: AgentProcess, fleet: Fleet) -> None:
    dice = random.Random(SEED)
    wait_until(lambda: agent.reported().serial == 1, "the first version serves")
    askers = [Asker(agent.infer_socket, number, tells=number % 2 == 0) for number in range(ASKERS)]
    updates = Updates(agent, fleet, VERSIONS, active=frozenset({1}))
    kills: list[Kill] = []
    try:
        while len(kills) < KILLS:
            if (kill := kill_one(agent, dice)) is None:
                continue
            kills.append(kill)
            wait_until(
                lambda kill=kill: _answers_after(askers, kill), f"service after {kill.victim}", BACK_LIMIT_S
            )
            assert not any(worker.broken for worker in (*askers, updates)), [
                w.broken for w in (*askers, updates)
            ]
    finally:
        updates.stop()
        for asker in askers:
            asker.stop()
    _tell(kills, askers, updates)
    failures = [failure for asker in askers for failure in asker.failures]
    unexplained = [failure for failure in failures if not _was_in_flight(failure, kills)]
    asked_again = [failure for failure in unexplained if ASKED_AGAIN in failure.error]
    print(
        f"{len(asked_again)} asked to come again by a process whose supervisor was killed before its first plan"
    )
    assert len(asked_again) <= max(ASKERS, KILLS // 50), [(f, _near(f, kills)) for f in asked_again]
    others = [failure for failure in unexplained if failure not in asked_again]
    assert not others, [(failure, _near(failure, kills)) for failure in others]
    _settle(agent, fleet)
    assert stored_outcomes(agent.state) == sum(asker.told for asker in askers)
    assert not agent.events("state_damaged")
    assert not agent.events("quarantined")
    agent.stop()
    check_files(StateLayout(agent.state), [])
    assert "Traceback" not in agent.log.read_text(), agent.log.read_text()[-5000:]
    assert updates.activated > 0


def _settle(agent: AgentProcess, fleet: Fleet) -> None:
    """Once nobody is killed any more, what is deployed is served."""
    serial = fleet.deploy(m="3").serial
    wait_until(agent.is_ready, "the agent is ready")
    agent.sync()
    wait_until(lambda: agent.reported().serial == serial, "the last deployment serves")
    assert agent.factor() == (factor_of("3"), "3")


def _answers_after(askers: list[Asker], kill: Kill) -> bool:
    return any(asker.answered_ns and asker.answered_ns[-1] > kill.time_ns + 20_000_000 for asker in askers)


def _was_in_flight(failure: Failure, kills: list[Kill]) -> bool:
    """Say whether a request was being answered by a serving process as that was killed.

    A killed process ends some milliseconds later, and until then may accept what comes.
    """
    return any(
        kill.victim == "serving"
        and failure.began_ns <= kill.time_ns + 50_000_000
        and failure.ended_ns >= kill.time_ns
        for kill in kills
    )


def _near(failure: Failure, kills: list[Kill]) -> list[tuple[str, float]]:
    """Return who was killed about the time of a failure, and how many seconds after it began."""
    after = [(kill.victim, (kill.time_ns - failure.began_ns) / 1e9) for kill in kills]
    return [(victim, round(after_s, 3)) for victim, after_s in after if abs(after_s) < 5.0]


def _tell(kills: list[Kill], askers: list[Asker], updates: Updates) -> None:
    answered = sorted(time_ns for asker in askers for time_ns in asker.answered_ns)
    failed = sum(len(asker.failures) for asker in askers)
    print(f"\n{len(answered)} answered, {failed} failed, {sum(asker.told for asker in askers)} outcomes,")
    print(f"{updates.rounds} deployments, {updates.activated} activations, {updates.rolled_back} rollbacks;")
    print(dict(sum((asker.versions for asker in askers), Counter[str]())))
    for victim in VICTIMS:
        gaps = sorted(_gap_s(answered, kill.time_ns) for kill in kills if kill.victim == victim)
        if gaps:
            figures = f"median {gaps[len(gaps) // 2]:.2f} s, p95 {gaps[int(len(gaps) * 0.95)]:.2f} s"
            print(f"{victim}: {len(gaps)} kills, without an answer for {figures}, longest {gaps[-1]:.2f} s")


def _gap_s(answered: list[int], moment_ns: int) -> float:
    """Return the longest time without an answer that a moment begins: up to the first one 20 ms after it."""
    after = first_after(answered, moment_ns + 20_000_000)
    return (after - moment_ns) / 1e9 if after is not None else float("inf")
