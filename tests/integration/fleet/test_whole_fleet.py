"""Deploy, hint, experiment, outcomes, collector, report: with a real agent and a real broker."""

import json
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_fleet.cli import main
from edge_fleet.fleet_db import FleetDb
from support.agent import AgentProcess, wait_until
from support.broker import Broker
from support.collector import Collector
from support.fleet import Fleet

REQUESTS = 60
LINK = {"metrics_interval_s": 0.2, "ab_interval_s": 0.2, "will_delay_s": 0}


def ask(agent: AgentProcess, unit: int) -> tuple[str, float]:
    """Ask for a prediction and tell its outcome; return its arm and the outcome."""
    with agent.client() as client:
        result = client.infer("m", {"x": np.ones((1, 3), np.float32)}, parameters={"unit": unit})
        value = float(result.outputs["y"][0, 0])
        client.outcome("m", result.prediction_id, value=value)
        return str(result.arm), value


def told(db: Path, arms: Counter[str]) -> bool:
    """Say whether the collector has these predictions, and an outcome for each."""
    with FleetDb.read(db) as fleet_db:
        messages = [row.message for row in fleet_db.sums("m", "m", 1)]
    exposures, outcomes = Counter[str](), Counter[str]()
    for message in messages:
        exposures.update(message.exposures)
        outcomes.update({row.arm: 0 for row in message.sums})
        for row in message.sums:
            outcomes[row.arm] += row.n
    return exposures == arms == outcomes


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def reporting(capsys: pytest.CaptureFixture[str], collector: Collector, serial: int) -> Any:
    """Return the one device once it reports this serial, which it does apart from its sums."""
    (device,) = printed(capsys, "status", "--db", str(collector.db))["devices"]
    return device if device["serial"] == serial else None


@pytest.mark.slow
def test_an_experiment_from_deployment_to_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fleet = Fleet(tmp_path / "fleet")
    fleet.release("1", 2.0)
    fleet.publish("2", 3.0)
    with Broker(tmp_path / "broker") as broker:
        collector = Collector(tmp_path / "fleet.db", broker.url)
        settings = {
            "device": {"id": "line-3"},
            "store": {"url": fleet.url, "root": str(fleet.root), "poll_interval_s": 3600},
            "mqtt": {"url": broker.url, **LINK},
            "outcomes": {"commit_interval_s": 0.0},
        }
        with collector.collecting() as process, AgentProcess(tmp_path / "device", settings) as agent:
            wait_until(lambda: agent.reported().serial == 1, "the first version serves")
            deployed = printed(
                capsys,
                *("deploy", str(fleet.store), "--keys", str(fleet.keys.path), collector.broker),
                *("--model", "m=1:50,2:50", "--unit", "key"),
            )
            assert deployed["notified"] == "edge/v1/default/_group/default/desired"
            wait_until(lambda: agent.reported().serial == 2, "the hint brought both versions")
            answers = [ask(agent, unit) for unit in range(REQUESTS)]
            assert set(answers) == {("1", 2.0), ("2", 3.0)}
            arms = Counter(arm for arm, _ in answers)
            wait_until(lambda: told(collector.db, arms), "all outcomes are collected")
            device = wait_until(lambda: reporting(capsys, collector, serial=2), "its report is collected")
            assert (device["device"], device["online"]) == ("line-3", True)
            assert sorted(version["version"] for version in device["versions"]) == ["1", "2"]
            agent.kill()
            wait_until(lambda: collector.counts()["online"] == 0, "the will is collected")
            agent.start()
            wait_until(lambda: collector.counts()["online"] == 1, "the birth is collected")
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=20)
            assert process.returncode == 0

    asked = ("ab", "m", "--db", str(collector.db), "--store", str(fleet.store))
    (report,) = printed(capsys, *asked)["reports"]
    (comparison,) = report["comparisons"]
    one, two = comparison["arms"]
    assert (one["arm"], one["exposures"], one["n"], one["mean"]["value"]) == ("1", arms["1"], arms["1"], 2.0)
    assert (two["mean"]["value"], two["difference"]["value"]) == (3.0, 1.0)
    assert report["ratio"]["observed"] == dict(arms)
    assert report["epoch"] == 1
