"""The link to the fleet, with a real agent and a real broker."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.telemetry.sketch import Sketch
from support.agent import AgentProcess, wait_until
from support.broker import Broker, Listener
from support.fleet import Fleet

UP = "edge/v1/default/device/up"
DOWN = "edge/v1/default/device/down"
QUICK = {"metrics_interval_s": 0.2, "ab_interval_s": 0.2, "will_delay_s": 0}


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path / "fleet")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with Broker(tmp_path / "broker") as running:
        yield running


def device(tmp_path: Path, broker: Broker, fleet: Fleet | None = None, **mqtt: Any) -> AgentProcess:
    store = {"url": fleet.url, "root": str(fleet.root), "poll_interval_s": 3600} if fleet else {}
    link = {"url": broker.url, **QUICK, **mqtt}
    return AgentProcess(tmp_path / "device", {"device": {"id": "device"}, "store": store, "mqtt": link})


def ids(listener: Listener) -> list[str]:
    return [message["id"] for message in listener.json(f"{UP}/event/+")]


def exposures(listener: Listener, experiment: str = "m") -> Counter[str]:
    """Add up the latest exposures of each database, as a collector does."""
    latest: dict[str, Any] = {}
    for message in listener.json(f"{UP}/ab/{experiment}"):
        if message["part"] == 0 and message["revision"] >= latest.get(message["database"], message)["revision"]:
            latest[message["database"]] = message
    total = Counter[str]()
    for message in latest.values():
        total.update(message["exposures"])
    return total


def is_up(agent: AgentProcess) -> bool:
    return agent.ask("status")["link"]["state"] == "up"


def test_birth_reports_and_events_are_told_and_the_will_after_a_crash(
    tmp_path: Path, broker: Broker, fleet: Fleet
) -> None:
    fleet.release("1", 2.0)
    with Listener(broker.port, f"{UP}/#") as fleet_side:
        agent = device(tmp_path, broker, fleet)
        agent.start()
        try:
            wait_until(
                lambda: [r for r in fleet_side.json(f"{UP}/reported") if r["serial"] == 1 and r["plan_id"]],
                "the version is reported",
            )
            assert fleet_side.on(f"{UP}/status")[0].payload == b"online"
            reported = fleet_side.json(f"{UP}/reported")[-1]
            assert (reported["device"], reported["versions"][0]["version"]) == ("device", "1")
            wait_until(lambda: fleet_side.on(f"{UP}/event/activated"), "the activation is told")
            kinds = [message["event"]["type"] for message in fleet_side.json(f"{UP}/event/+")]
            assert kinds == ["started", "installed", "activated"]
            wait_until(lambda: agent.ask("status")["link"]["outbox_events"] == 0, "all is acknowledged")
        finally:
            agent.kill()
        wait_until(lambda: fleet_side.on(f"{UP}/status")[-1].payload == b"offline", "the will is told")
    with Listener(broker.port, f"{UP}/#") as late:
        wait_until(lambda: late.on(f"{UP}/reported"), "the report is retained")
        assert {found.topic for found in late.messages} == {f"{UP}/status", f"{UP}/reported"}


def test_metrics_and_sums_of_the_arms_are_told(tmp_path: Path, broker: Broker, fleet: Fleet) -> None:
    fleet.release("1", 2.0)
    with Listener(broker.port, f"{UP}/#") as fleet_side, device(tmp_path, broker, fleet) as agent:
        wait_until(lambda: agent.reported().serial == 1, "the version serves")
        for _ in range(7):
            agent.factor()
        wait_until(
            lambda: any(v["requests"] == 7 for m in fleet_side.json(f"{UP}/metrics") for v in m["versions"]),
            "the requests are in the metrics",
        )
        latest = fleet_side.json(f"{UP}/metrics")[-1]["versions"][0]
        assert (latest["model"], latest["version"], latest["arm"]) == ("m", "1", "1")
        sketch = Sketch.from_builtins(latest["latency_s"])
        assert sketch.count == 7
        assert 0 < sketch.quantile(0.5) < 10
        wait_until(lambda: exposures(fleet_side) == {"1": 7}, "the exposures are told")
        with agent.client() as client:
            result = client.infer("m", {"x": np.ones((1, 3), np.float32)})
            client.outcome("m", str(result.parameters["prediction_id"]), correct=1)
        wait_until(lambda: [m for m in fleet_side.json(f"{UP}/ab/m") if m["sums"]], "the outcome is told")
        message = fleet_side.json(f"{UP}/ab/m")[-1]
        row = message["sums"][0]
        assert (row["arm"], row["metric"], row["n"], row["sum"]) == ("1", "correct", 1, 1.0)
        assert (message["model"], message["epoch"]) == ("m", 0)
        wait_until(lambda: exposures(fleet_side) == {"1": 8}, "the exposure is told")
        agent.stop()
        agent.start()
        wait_until(lambda: agent.reported().versions, "it serves again")
        agent.factor()
        wait_until(lambda: exposures(fleet_side) == {"1": 9}, "no exposure was lost by the restart")
