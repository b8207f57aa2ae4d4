"""Trials of new versions by a supervisor on a real state folder, also over a power cut at the wrong moment."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.policy.attempts import RESETS_LIMIT
from support.supervisor import KILLED, SEGFAULT, Supervisor


@pytest.fixture
def it(tmp_path: Path) -> Iterator[Supervisor]:
    """One that serves version 1 of a and of b, which has answered some requests."""
    supervisor = Supervisor(tmp_path / "state")
    supervisor.apply()
    supervisor.deploy(1, supervisor.version("a", "1"), supervisor.version("b", "1"))
    supervisor.apply()
    supervisor.count(supervisor.version("a", "1"), 200, errors=2)
    yield supervisor
    supervisor.close()


def on_trial(it: Supervisor) -> None:
    """Activate version 2 of a."""
    it.deploy(2, it.version("a", "2"), it.version("b", "1"))
    it.apply()
    assert it.value.bake is not None
    assert it.value.bake.versions == (it.version("a", "2").key,)


def test_the_first_deployment_has_nothing_to_go_back_to_and_no_trial(it: Supervisor) -> None:
    assert it.value.current.serial == 1
    assert it.value.bake is None


def test_what_changes_no_version_is_on_no_trial(it: Supervisor) -> None:
    it.deploy(2, it.version("a", "1"))
    it.apply()
    assert it.value.bake is None


def test_errors_bring_the_old_plan_back(it: Supervisor) -> None:
    on_trial(it)
    it.count(it.version("a", "2"), 30, errors=15)
    it.deployer.step()
    assert (it.value.current.serial, it.value.held) == (1, "default/2/stable")
    assert it.applying is not None
    assert it.events("rolled_back") == [], "told before it serves"
    it.apply()
    [event] = it.events("rolled_back")
    assert "15 of 30 requests failed" in event.message
    assert it.value.untold is None


@pytest.mark.parametrize("leaves", ["breach", "deployment"])
def test_what_left_its_trial_does_not_serve_again_when_the_good_version_goes(
    it: Supervisor, leaves: str
) -> None:
    on_trial(it)
    if leaves == "breach":
        it.count(it.version("a", "2"), 30, errors=15)
        it.deployer.step()
    else:
        it.deploy(3, it.version("a", "1"), it.version("b", "1"))
    it.apply()
    assert it.value.bake is None
    it.deployer.refuse("a", "1", "Its labels are wrong.", "root")
    it.deployer.step()
    assert it.applying is not None
    assert [version.key for version in it.applying.versions] == [it.version("b", "1").key]


def test_a_slow_version_is_held_against_the_old_one_of_its_model(it: Supervisor) -> None:
    on_trial(it)
    it.count(it.version("a", "2"), 100, run_ns=10_000_000)
    it.deployer.step()
    [event] = it.events("breached")
    assert "the p99 of 100 runs is 10" in event.message


def test_what_was_decided_is_done_after_a_power_cut(it: Supervisor) -> None:
    on_trial(it)
    it.count(it.version("a", "2"), 30, errors=30)
    it.deployer.step()
    it.close()
    it.start()
    assert it.applying is not None
    assert [version.version for version in it.applying.of_model("a")] == ["1"]
    it.apply()
    assert "30 of 30 requests failed" in it.events("rolled_back")[0].message


def test_the_trial_goes_on_after_a_power_cut_with_what_was_noted(it: Supervisor) -> None:
    on_trial(it)
    it.count(it.version("a", "2"), 30)
    it.deployer.step()
    it.deployer.baking.note()
    it.close()
    it.start()
    it.apply()
    report = it.deployer.baking.report
    assert report is not None
    assert (report.versions[0].requests, report.serial) == (30, 2)
    it.count(it.version("a", "2"), 30, errors=20)
    it.deployer.step()
    assert "20 of 60 requests failed" in it.events("breached")[0].message


def test_a_crash_inside_the_new_version_breaches_at_once(it: Supervisor) -> None:
    on_trial(it)
    it.end(SEGFAULT, it.version("a", "2"))
    assert it.value.current.serial == 1


def test_a_crash_inside_nobody_known_does_too(it: Supervisor) -> None:
    on_trial(it)
    it.end(SEGFAULT)
    assert it.value.current.serial == 1


@pytest.mark.parametrize("status", [0, KILLED])
def test_an_end_in_order_and_a_kill_do_not(it: Supervisor, status: int) -> None:
    on_trial(it)
    it.end(status, it.version("a", "2"))
    assert it.value.bake is not None


def test_nor_does_a_crash_inside_a_version_that_served_before(it: Supervisor) -> None:
    on_trial(it)
    it.end(SEGFAULT, it.version("b", "1"))
    assert it.value.bake is not None
    assert len(it.value.incidents) == 1


def test_a_device_that_goes_down_again_and_again_early_in_a_trial_gives_the_plan_up(it: Supervisor) -> None:
    on_trial(it)
    for _ in range(RESETS_LIMIT):
        attempt = it.value.attempt
        assert attempt is not None
        it.state.change(attempt=dataclasses.replace(attempt, boot="another"))
        it.close()
        it.start()
        while it.applying is not None:
            it.apply()
    assert it.value.current.serial == 1
    assert f"went down {RESETS_LIMIT} times" in it.events("breached")[0].message


def test_it_ends_well_in_time(it: Supervisor) -> None:
    on_trial(it)
    it.count(it.version("a", "2"), 30)
    it.deployer.step()
    bake = it.deployer.baking._bake
    assert bake is not None
    it.deployer.baking._bake = dataclasses.replace(bake, baked_s=60.0)
    it.deployer.step()
    assert it.value.bake is None
    assert "30 requests" in it.events("baked")[0].message
