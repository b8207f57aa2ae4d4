"""Plans that serving does not apply, on a real state folder: who is to blame, and what is tried again."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.control import deferral
from edge_agent.documents import ipc
from edge_agent.documents.plan import Plan
from edge_agent.policy.attempts import KILLS_LIMIT, RESETS_LIMIT, Interruptions
from support.supervisor import KILLED, Supervisor


@pytest.fixture
def it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    """One that serves version 1, and waits for 100 s and twice as long each time."""
    monkeypatch.setattr(deferral, "probe_delay_s", lambda tries, _: 100.0 * tries)
    supervisor = Supervisor.serving_one(tmp_path / "state")
    yield supervisor
    supervisor.close()


def activating(it: Supervisor) -> Plan:
    it.deploy(2, it.version("a", "2"))
    assert it.applying is not None
    return it.applying


def later(it: Supervisor, seconds: float) -> None:
    now_s = it.deployer._deferral._clock() + seconds
    it.deployer._deferral._clock = lambda: now_s
    it.deployer.step()


def refuse(it: Supervisor, *, by_device: bool) -> None:
    plan = it.applying
    assert plan is not None
    key = plan.versions[0].key
    it.say(ipc.Refused(plan_id=plan.id, key=key, reason="It lacks memory.", by_device=by_device))


def test_a_version_that_does_not_load_is_quarantined(it: Supervisor) -> None:
    activating(it)
    refuse(it, by_device=False)
    assert [entry.version for entry in it.value.quarantine.values()] == ["2"]


def test_one_that_does_not_load_here_now_waits(it: Supervisor) -> None:
    plan = activating(it)
    refuse(it, by_device=True)
    assert it.value.quarantine == {}
    assert it.value.target == plan
    assert it.applying is None
    assert it.deployer.problems == ["a 2 could not be loaded, and will be again: It lacks memory."]
    assert len(it.events("warning")) == 1
    later(it, 101)
    assert it.applying == plan
    refuse(it, by_device=True)
    later(it, 101)
    assert it.applying is None, "the second wait is longer"
    later(it, 100)
    it.apply()
    assert it.value.current == plan
    assert it.deployer.problems == []


def test_what_has_loaded_at_last_waits_no_more_beside_a_newer_version(it: Supervisor) -> None:
    activating(it)
    refuse(it, by_device=True)
    later(it, 101)
    it.apply()
    it.fetch(3, it.version("a", "2"), it.version("b", "1"))
    assert it.deployer.problems == []


def test_what_waits_does_not_hold_up_a_newer_deployment(it: Supervisor) -> None:
    activating(it)
    refuse(it, by_device=True)
    newer = it.deploy(3, it.version("a", "3"))
    assert it.applying == newer


def test_who_waits_for_a_look_that_brings_what_waits_already_is_told_why_it_does(it: Supervisor) -> None:
    plan = activating(it)
    refuse(it, by_device=True)
    watch = it.deployer._watch

    async def look() -> str:
        outcome = watch.ask(force=False, folder="/media", progress=lambda _: None)
        # The look has begun, and has brought the plan that is here.
        watch._waiting, watch._asked = watch._asked.waiters, type(watch._asked)()
        it.deployer._target.adopt(plan)
        it.deployer.step()
        return (await asyncio.wait_for(outcome, 5)).message

    assert asyncio.run(look()) == "a 2 could not be loaded, and will be again: It lacks memory."


def killed_while_loading(it: Supervisor) -> None:
    """Have serving killed while it loads the target, and the old plan served again."""
    version = it.version("a", "2")
    it.end(KILLED, loading=version)
    assert it.applying is not None
    assert [one.version for one in it.applying.versions] == ["1"]
    it.apply()


def test_serving_that_is_killed_while_it_loads_a_version_is_not_killed_for_ever(it: Supervisor) -> None:
    plan = activating(it)
    killed_while_loading(it)
    assert it.applying == plan, "once may be chance"
    for times in range(2, KILLS_LIMIT):
        killed_while_loading(it)
        assert it.applying is None
        assert it.deployer.problems == [
            "a 2 could not be loaded, and will be again: The serving process was killed by SIGKILL meanwhile, "
            "again."
        ]
        later(it, 100 * (times - 1) + 1)
        assert it.applying == plan
    assert it.value.quarantine == {}
    killed_while_loading(it)
    [entry] = it.value.quarantine.values()
    assert entry.reason == (
        "It is not loaded again: the serving process ended 20 times in a row while it was loaded."
    )
    assert it.value.interruptions == {}


def test_kills_while_a_version_is_loaded_are_forgotten_once_it_serves(it: Supervisor) -> None:
    activating(it)
    killed_while_loading(it)
    assert it.value.interruptions != {}
    it.apply()
    assert it.value.current.serial == 2
    later(it, 1000)
    it.deployer._attempts._settled_s = 0.0
    it.deployer.step()
    assert it.value.interruptions == {}


def test_a_kill_for_lack_of_memory_is_charged_to_what_is_loaded(it: Supervisor) -> None:
    activating(it)
    for _ in range(3):
        it.oom_kills += 1
        killed_while_loading(it)
        it.serving._oom_kills.begin()
    [entry] = it.value.quarantine.values()
    assert entry.reason == "It crashed the serving process 3 times."
    assert it.value.interruptions == {}
    assert "for lack of memory, charged to" in it.events("crashed")[0].message


def test_a_version_on_trial_that_runs_out_of_memory_is_taken_back(it: Supervisor) -> None:
    activating(it)
    it.apply()
    it.oom_kills += 1
    it.end(KILLED)
    it.apply()
    assert it.value.current.serial == 1
    assert "the serving process was killed by SIGKILL for lack of memory" in it.events("breached")[0].message


def ask_sync(it: Supervisor, *, force: bool) -> None:
    """Have an operator ask for a look, which does not take place."""

    async def ask() -> None:
        it.deployer.ask_sync(force=force, folder="/media", progress=lambda _: None, actor="root")

    asyncio.run(ask())
    it.deployer._watch._asked = type(it.deployer._watch._asked)()


def test_what_was_given_up_before_it_served_is_tried_again_by_a_forced_look(it: Supervisor) -> None:
    versions = [it.version(model, "2") for model in "ab"]
    it.state.change(interruptions={versions[0].key: Interruptions(resets=RESETS_LIMIT)})
    it.deploy(2, *versions)
    assert it.applying is None
    [problem] = it.deployer.problems
    assert problem == (
        "One of its versions is to blame: the device went down 5 times in a row while it was loaded, or soon "
        "after. Serial 2 is held. A newer deployment or `edge-agent sync --force` ends that."
    )
    ask_sync(it, force=False)
    assert it.deployer.problems == [problem]
    ask_sync(it, force=True)
    assert it.deployer.problems == []
    [event] = it.events("released")
    assert (event.actor, event.serial) == ("root", 2)
    assert it.deploy(2, *versions) == it.applying


def test_what_was_gone_back_from_is_not(it: Supervisor) -> None:
    activating(it)
    it.apply()
    it.deployer.baking.give_up(it.version("a", "2").key, "it was slow")
    it.deployer.step()
    it.apply()
    ask_sync(it, force=True)
    [problem] = it.deployer.problems
    assert problem == (
        "a 2 breached its guardrails: it was slow. Serial 2 is held. A newer deployment or `edge-agent "
        "rollback` ends that."
    )
