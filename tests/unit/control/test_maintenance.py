"""The windows of a device by its own clock."""

import dataclasses
from datetime import UTC, datetime

import pytest

from edge_agent.control.maintenance import Maintenance, shown_time, zone_of
from edge_agent.documents.plan import Plan, VersionPlan
from edge_agent.documents.settings import UpdateSettings
from edge_agent.policy.reconcile import identity
from edge_agent.store.state import DeployedState

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC).timestamp()
HOUR_S = 3600.0


def plan(name: str, window: str = "") -> Plan:
    version = VersionPlan("m", name, "onnx", "fp32", name * 64, f"/{name}", 1, (), ())
    return Plan(name, serial=7, versions=(version,), window=window)


def may_activate(window: str | None, at_s: float, target: Plan, at_once: bool = False) -> bool:
    maintenance = Maintenance(UpdateSettings(window=window), lambda: at_s, lambda: at_once)
    return maintenance.may_activate(DeployedState(current=plan("1"), target=target))


@pytest.fixture(autouse=True)
def in_berlin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")


def test_the_windows_of_device_and_deployment_both_count() -> None:
    inside, outside = "13:00-14:00", "11:00-12:00 UTC"
    assert may_activate(inside, NOON, plan("2"))  # 13:00 in Berlin
    assert may_activate(None, NOON, plan("2", inside))
    assert not may_activate(outside, NOON, plan("2"))
    assert not may_activate(inside, NOON, plan("2", outside))
    assert may_activate(outside, NOON, plan("2"), at_once=True)


def test_what_was_gone_back_from_waits_when_it_is_deployed_again() -> None:
    outside = Maintenance(UpdateSettings(window="11:00-12:00 UTC"), lambda: NOON)
    state = DeployedState(
        current=plan("1"), previous=plan("2"), target=dataclasses.replace(plan("2"), serial=8)
    )
    assert outside.may_activate(state)
    assert not outside.may_activate(dataclasses.replace(state, held=identity(plan("2"))))


def test_what_is_waited_for_is_told() -> None:
    maintenance = Maintenance(UpdateSettings(window="02:00-05:00"), lambda: NOON)
    wait = maintenance.wait(plan("2"))
    assert wait.until_s == NOON + 13 * HOUR_S
    assert wait.message == (
        "Serial 7 is here and waits for the maintenance window that opens Thu 2026-11-26 02:00 CET."
    )


def test_windows_that_never_meet_are_told() -> None:
    wait = Maintenance(UpdateSettings(window="02:00-05:00"), lambda: NOON).wait(plan("2", "06:00-07:00"))
    assert wait.until_s is None
    assert wait.message.endswith(
        "a time that is in all of its windows, and none is: 02:00-05:00 and 06:00-07:00."
    )


def test_downloads_keep_to_the_window_if_they_shall() -> None:
    settings = UpdateSettings(window="13:00-14:00", download_outside_window=False)
    assert Maintenance(UpdateSettings(window="13:00-14:00"), lambda: NOON).download_until_s() is None
    assert Maintenance(settings, lambda: NOON).download_until_s() == NOON + HOUR_S
    before = Maintenance(settings, lambda: NOON - HOUR_S)
    assert (before.download_until_s(), before.downloads_resume_s()) == (NOON - HOUR_S, NOON)


@pytest.mark.parametrize("name", ["", "Nowhere/City", "CET-1CEST"])
def test_a_zone_that_is_not_known_by_name_is_still_the_devices(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("TZ", name)
    assert zone_of("local").utcoffset(datetime.now()) is not None
    assert zone_of("UTC") is UTC
    assert shown_time(NOON).startswith(("Wed 2026-11-25", "Thu 2026-11-26"))
