"""The agent is killed at random moments while outcomes flow, over the whole chain to the collector."""

import contextlib
import random
import threading
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psutil
import pytest

from edge_agent.client import Client
from edge_agent.documents.deployment import Arm, Experiment, ModelDeployment
from edge_agent.documents.errors import DuplicateError, UnavailableError
from edge_fleet.deploy import Change, deploy
from edge_fleet.fleet_db import FleetDb
from support.agent import AgentProcess, wait_until
from support.broker import Broker
from support.collector import Collector
from support.fleet import Fleet

KILLS = 100
SENDERS = 3
EARLY = 0.25
"""The share of kills that do not wait for outcomes, and may come while the agent starts."""
QUICK = {"ab_interval_s": 0.2, "metrics_interval_s": 1.0, "will_delay_s": 0}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class Sender:
    """Asks for predictions and tells an outcome of each, again until it is known to be stored."""

    def __init__(self, socket: Path, number: int) -> None:
        self._socket = socket
        self._number = number
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"sender-{number}")
        self.told: Counter[str] = Counter()
        """Outcomes that were acknowledged, by arm."""
        self.totals: Counter[str] = Counter()
        """The sums of their values."""
        self.failures: list[str] = []
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        with Client(self._socket) as client:
            while not self._stop.is_set() and not self.failures:
                try:
                    self._send(client)
                except Exception as error:
                    self.failures.append(repr(error))

    def _send(self, client: Client) -> None:
        try:
            result = client.infer("m", {"x": np.ones((1, 3), np.float32)})
        except UnavailableError:
            self._stop.wait(0.01)
            return
        value = self.told.total() % 7
        for attempt in range(100_000):
            try:
                client.outcome("m", result.prediction_id, value=value)
            except UnavailableError:
                self._stop.wait(0.01)
                continue
            except DuplicateError:
                assert attempt > 0, "an outcome that was never told before is a duplicate"
            self.told[str(result.arm)] += 1
            self.totals[str(result.arm)] += value
            return


def collected(db: Path) -> tuple[Counter[str], Counter[str]]:
    """Return counts and sums of the outcomes at the collector, by arm."""
    counts, totals = Counter[str](), Counter[str]()
    with FleetDb.read(db) as fleet_db:
        for experiment, model, epoch in fleet_db.epochs():
            for row in fleet_db.sums(experiment, model, epoch):
                for sums in row.message.sums:
                    counts[sums.arm] += sums.n
                    totals[sums.arm] += round(sums.sum)
    return counts, totals


def kill(agent: AgentProcess, *, with_children: bool) -> None:
    """Kill the supervisor; its serving process at the same moment, or left to notice it and end by itself."""
    assert agent.process is not None
    children = psutil.Process(agent.process.pid).children(recursive=True)
    agent.kill()
    for child in children if with_children else ():
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


def experiment(folder: Path) -> Fleet:
    """Return a fleet whose devices compare two versions."""
    fleet = Fleet(folder)
    fleet.publish("1", 2.0)
    fleet.publish("2", 3.0)
    arms = (Arm(version="1"), Arm(version="2"))
    model = ModelDeployment(arms=arms, experiment=Experiment(name="m", salt="s", epoch=1))
    deploy(fleet.repository, fleet.keys, "default", Change(models={"m": model}), datetime.now(UTC))
    return fleet


def wait_for_a_moment(dice: random.Random, senders: list[Sender], limit_s: float = 60.0) -> None:
    """Wait until some more outcomes are acknowledged; or now and then for no reason, also while it starts."""
    if dice.random() < EARLY:
        threading.Event().wait(dice.uniform(0.0, 1.0))
        return
    goal = sum(sender.told.total() for sender in senders) + dice.randint(1, 40)

    def is_over() -> bool:
        assert not any(sender.failures for sender in senders), [sender.failures for sender in senders]
        return sum(sender.told.total() for sender in senders) >= goal

    wait_until(is_over, "more outcomes are acknowledged", limit_s)


def test_every_acknowledged_outcome_is_at_the_collector_exactly_once(tmp_path: Path) -> None:
    dice = random.Random(11)
    fleet = experiment(tmp_path / "fleet")
    with Broker(tmp_path / "broker") as broker:
        settings = {
            "device": {"id": "device"},
            "store": {"url": fleet.url, "root": str(fleet.root), "poll_interval_s": 3600},
            "mqtt": {"url": broker.url, **QUICK},
            "outcomes": {"commit_interval_s": 0.02},
        }
        agent = AgentProcess(tmp_path / "device", settings)
        collector = Collector(tmp_path / "fleet.db", broker.url)
        agent.start()
        wait_until(lambda: len(agent.reported().versions) == 2, "both versions are served")
        with collector.collecting():
            senders = [Sender(agent.infer_socket, number) for number in range(SENDERS)]
            try:
                for _ in range(KILLS):
                    wait_for_a_moment(dice, senders)
                    kill(agent, with_children=dice.random() < 0.5)
                    agent.start(wait=False)
                wait_until(agent.is_ready, "the agent is ready")
            finally:
                for sender in senders:
                    sender.stop()
            assert not any(sender.failures for sender in senders), [sender.failures for sender in senders]
            told = sum((sender.told for sender in senders), Counter[str]())
            totals = sum((sender.totals for sender in senders), Counter[str]())
            try:
                wait_until(lambda: collected(collector.db) == (told, totals), "all is at the collector")
            except AssertionError:
                assert collected(collector.db) == (told, totals)
            agent.stop()
            assert collected(collector.db) == (told, totals)
            # Killed again and again as it loads, the agent loads one version at a time; the answers of one that
            # is alone are counted apart.
            assert {"1", "2"} <= set(told) <= {"1", "2", "fallback"}
    assert "Traceback" not in agent.log.read_text(), agent.log.read_text()
