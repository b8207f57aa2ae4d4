"""The link to the fleet, with a real agent and a real broker."""

import random
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.telemetry.sketch import Sketch
from support.agent import AgentProcess, wait_until
from support.broker import Broker, Listener
from support.certificates import Certificates
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
            assert kinds == ["started", "installed", "probed", "activated"]
            wait_until(lambda: agent.ask("status")["link"]["outbox_events"] == 0, "all is acknowledged")
        finally:
            agent.kill()
        wait_until(lambda: fleet_side.on(f"{UP}/status")[-1].payload == b"offline", "the will is told")
    with Listener(broker.port, f"{UP}/#") as late:
        wait_until(lambda: late.on(f"{UP}/reported"), "the report is retained")
        assert {found.topic for found in late.messages} == {f"{UP}/status", f"{UP}/reported"}


@pytest.mark.slow
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


def test_a_broker_that_is_down_at_first_gets_everything_later(tmp_path: Path, fleet: Fleet) -> None:
    broker = Broker(tmp_path / "broker")
    with device(tmp_path, broker, fleet) as agent:
        agent.sync()
        link = agent.ask("status")["link"]
        assert (link["state"], link["outbox_events"] > 0) == ("down", True)
        with broker, Listener(broker.port, f"{UP}/#", client_id="late", session_expiry_s=60) as fleet_side:
            wait_until(lambda: agent.ask("status")["link"]["outbox_events"] == 0, "all is acknowledged")
            assert fleet_side.on(f"{UP}/event/started")
            wait_until(lambda: fleet_side.on(f"{UP}/reported"), "the report is told")


def test_a_broker_that_was_killed_and_emptied_is_told_again(
    tmp_path: Path, broker: Broker, fleet: Fleet
) -> None:
    with device(tmp_path, broker, fleet) as agent:
        wait_until(lambda: is_up(agent), "the link is up")
        broker.kill()
        broker.forget()
        wait_until(lambda: not is_up(agent), "the loss is noticed")
        fleet.release("1", 2.0)
        agent.sync()
        broker.start()
        with Listener(broker.port, f"{UP}/#") as fleet_side:
            wait_until(lambda: fleet_side.on(f"{UP}/event/activated"), "the event is told")
            wait_until(
                lambda: [r for r in fleet_side.json(f"{UP}/reported") if r["serial"] == 1], "the report is told"
            )
            assert fleet_side.on(f"{UP}/status")[-1].payload == b"online"


@pytest.mark.slow
def test_no_event_is_lost_or_has_two_ids_when_agent_and_broker_are_killed(
    tmp_path: Path, broker: Broker
) -> None:
    """Each start records an event; kills fall on any moment of connecting, sending and acknowledging."""
    chance = random.Random(7)
    agent = device(tmp_path, broker)
    with Listener(broker.port, f"{UP}/#", client_id="collector", session_expiry_s=600) as fleet_side:
        for turn in range(20):
            agent.start(wait=False)
            before = len(set(ids(fleet_side)))
            if turn % 2:
                wait_until(lambda before=before: len(set(ids(fleet_side))) > before, "something is told")
            else:
                threading.Event().wait(chance.uniform(0.3, 1.2))
            if turn % 7 == 6:
                broker.kill()
                broker.start()
            agent.kill()
        with agent:
            wait_until(
                lambda: is_up(agent) and agent.ask("status")["link"]["outbox_events"] == 0, "all is sent"
            )
            stored = len(agent.events())
            epoch = ids(fleet_side)[-1].partition("-")[0]
            wanted = {f"{epoch}-{seq}" for seq in range(1, stored + 1)}
            wait_until(lambda: set(ids(fleet_side)) == wanted, "each event was told under its one id")
        by_id: dict[str, Any] = {}
        for message in fleet_side.json(f"{UP}/event/+"):
            assert by_id.setdefault(message["id"], message) == message


def test_another_client_with_the_same_id_is_told_once(tmp_path: Path, broker: Broker) -> None:
    with device(tmp_path, broker) as agent:
        wait_until(lambda: is_up(agent), "the link is up")
        with Listener(broker.port, client_id="device"):
            found = wait_until(lambda: agent.events("warning"), "the takeover is an event")
            assert "Another client seems to use the id 'device'" in found[0].message
            assert not is_up(agent)


def test_commands_are_answered_and_bad_ones_are_one_event_each(
    tmp_path: Path, broker: Broker, fleet: Fleet
) -> None:
    fleet.release("1", 2.0)
    with device(tmp_path, broker, fleet) as agent, Listener(broker.port, f"{UP}/res/#") as fleet_side:
        wait_until(lambda: is_up(agent) and agent.reported().serial == 1, "the agent is up")
        fleet.release("2", 3.0)
        fleet_side.ask(f"{DOWN}/cmd/sync", {}, f"{UP}/res/7", b"seven")
        answer = wait_until(lambda: fleet_side.on(f"{UP}/res/7"), "the answer")[0]
        assert answer.properties.CorrelationData == b"seven"
        assert fleet_side.json(f"{UP}/res/7")[0]["result"]["status"] == "activated"
        fleet_side.ask(f"{DOWN}/cmd/reboot", {}, f"{UP}/res/8")
        assert (
            "No command is named 'reboot'"
            in wait_until(lambda: fleet_side.json(f"{UP}/res/8"), "no")[0]["error"]
        )
        fleet_side.ask(f"{DOWN}/cmd/loglevel", {"level": "loud"}, f"{UP}/res/9")
        assert "malformed" in wait_until(lambda: fleet_side.json(f"{UP}/res/9"), "a refusal")[0]["error"]
        assert agent.events("warning") == []
        fleet_side.ask(f"{DOWN}/cmd/sync", {}, f"{DOWN}/cmd/sync")
        fleet_side.tell(f"{DOWN}/cmd/sync", {}, retain=True)
        fleet_side.tell(f"{DOWN}/cmd/\N{BOMB}/sync", b"\xff")
        fleet_side.tell(f"{DOWN}/cmd/loglevel", b"\xff")
        fleet_side.tell("edge/v1/default/_group/default/desired", b"[]")
        messages = wait_until(lambda: [e.message for e in agent.events("warning")][4:], "one event each")
        messages = [event.message for event in agent.events("warning")]
        for part in ("Response Topic", "retained", "No command", "malformed", "no hint"):
            assert sum(part in message for message in messages) == 1, (part, messages)
        agent.stop()
        agent.start()
        wait_until(lambda: len(agent.events("warning")) > 5, "the retained command is refused again")
        assert fleet_side.on(f"{UP}/res/+")[3:] == []


def test_a_hint_brings_a_large_version_at_once(tmp_path: Path, broker: Broker, fleet: Fleet) -> None:
    fleet.release("1", 2.0)
    with device(tmp_path, broker, fleet) as agent, Listener(broker.port) as fleet_side:
        wait_until(lambda: is_up(agent) and agent.reported().serial == 1, "the agent is up")
        fleet.release("2", 3.0, padding_bytes=3_000_000)
        hint = {"serial": 2, "spread_s": 0.0, "schema": 1}
        started_s = time.monotonic()
        fleet_side.tell("edge/v1/default/_group/default/desired", hint, retain=True)
        wait_until(lambda: agent.factor() == (3.0, "2"), "the new version serves")
        took_s = time.monotonic() - started_s
        print(f"hint to serving: {took_s:.2f} s")
        assert took_s < 15
        looked_s = agent.reported().sync.finished_s
        fleet_side.tell("edge/v1/default/_group/default/desired", hint, retain=True)
        fleet_side.ask("edge/v1/default/device/down/cmd/nothing", {}, "elsewhere")
        wait_until(lambda: agent.events("warning"), "the message after the hint was handled")
        assert agent.reported().sync.finished_s == looked_s


def test_what_is_too_large_for_the_broker_is_left_out_and_the_rest_goes_on(
    tmp_path: Path, fleet: Fleet
) -> None:
    with (
        Broker(tmp_path / "broker", "max_packet_size 400") as broker,
        device(tmp_path, broker, fleet) as agent,
        Listener(broker.port, f"{UP}/event/+") as fleet_side,
    ):
        fleet.release("1", 2.0)
        agent.sync()
        wait_until(lambda: fleet_side.on(f"{UP}/event/activated"), "events go on")
        wait_until(lambda: agent.events("warning"), "the report that was not sent is an event")
        assert "400" in agent.events("warning")[0].message
        wait_until(lambda: agent.ask("status")["link"]["outbox_events"] == 0, "nothing is stuck")


def test_two_lines_of_access_rules_isolate_the_devices(tmp_path: Path) -> None:
    rules = tmp_path / "acl"
    rules.write_text(
        "pattern write edge/v1/default/%u/up/#\npattern read edge/v1/default/%u/down/#\n"
        "pattern read edge/v1/default/_group/+/desired\nuser fleet\ntopic readwrite edge/v1/#\n"
    )
    passwords = tmp_path / "passwords"
    passwords.write_text("device:secret\nother:secret\nfleet:all\n")
    subprocess.run([shutil.which("mosquitto_passwd") or "mosquitto_passwd", "-U", passwords], check=True)
    (tmp_path / "password").write_text("secret\n")
    lines = (f"acl_file {rules}", f"password_file {passwords}")
    with Broker(tmp_path / "broker", *lines, anonymous=False) as broker:
        agent = device(tmp_path, broker, password_file=str(tmp_path / "password"))
        with (
            Listener(broker.port, "edge/v1/#", username="fleet", password="all") as fleet_side,
            Listener(broker.port, "#", username="other", password="secret") as spy,
            agent,
        ):
            wait_until(lambda: fleet_side.on(f"{UP}/event/started"), "the device is heard by the fleet")
            fleet_side.ask(f"{DOWN}/cmd/snapshot", {}, f"{UP}/res/1")
            wait_until(lambda: fleet_side.on(f"{UP}/res/1"), "the command is answered")
            spy.tell(f"{DOWN}/cmd/reboot", {})
            spy.tell(f"{UP}/status", b"offline", retain=True)
            fleet_side.ask(f"{DOWN}/cmd/snapshot", {}, f"{UP}/res/2")
            wait_until(lambda: fleet_side.on(f"{UP}/res/2"), "the command is answered")
            assert agent.events("warning") == []
            assert [found.payload for found in fleet_side.on(f"{UP}/status")] == [b"online"]
            assert spy.messages == []


def test_a_wrong_password_is_told_and_a_right_one_taken_up(tmp_path: Path) -> None:
    passwords = tmp_path / "passwords"
    passwords.write_text("device:secret\n")
    subprocess.run([shutil.which("mosquitto_passwd") or "mosquitto_passwd", "-U", passwords], check=True)
    own = tmp_path / "password"
    own.write_text("wrong\n")
    with (
        Broker(tmp_path / "broker", f"password_file {passwords}", anonymous=False) as broker,
        device(tmp_path, broker, password_file=str(own)) as agent,
    ):
        wait_until(lambda: "refuses" in agent.ask("status")["link"]["message"], "the refusal is shown")
        own.write_text("secret\n")
        wait_until(lambda: is_up(agent), "the link is up")


def test_client_certificates_open_a_link_by_tls(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path / "tls")
    lines = (
        f"cafile {certificates.ca}",
        f"certfile {certificates.server}",
        f"keyfile {certificates.server_key}",
        "require_certificate true",
        "use_identity_as_username true",
    )
    with Broker(tmp_path / "broker", *lines) as broker:
        url = f"mqtts://localhost:{broker.port}"
        files = {"client_certificate": str(certificates.client), "client_key": str(certificates.client_key)}
        with device(tmp_path, broker, **{"url": url, "ca_bundle": str(certificates.ca), **files}) as agent:
            wait_until(lambda: is_up(agent), "the link is up")
            wait_until(lambda: agent.ask("status")["link"]["outbox_events"] == 0, "all is acknowledged")
            agent.stop()
            agent.settings["mqtt"] = {"url": url, **QUICK, **files}
            agent.start()
            wait_until(
                lambda: "cannot be trusted" in agent.ask("status")["link"]["message"], "a foreign CA is refused"
            )
