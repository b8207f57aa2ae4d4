"""The table in policy.reconcile, row by row, and a walk that must always come to rest."""

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.documents.plan import LeftOut, ModelPlan, Plan, VersionPlan, with_id
from edge_agent.policy import reconcile
from edge_agent.policy.reconcile import Activate, DropTarget, Probe, Serve, Situation, Sync


def version(model: str, name: str) -> VersionPlan:
    sha256 = f"{model}{name}".ljust(64, "0")
    return VersionPlan(model, name, "onnx", "fp32", sha256, f"/{sha256}", 1, (), ())


def plan(serial: int, *versions: VersionPlan) -> Plan:
    return with_id(Plan("", "stable", "default", serial, versions))


OLD, NEW = version("m", "1"), version("m", "2")
RUNNING = plan(1, OLD)
TARGET = plan(2, NEW)
CALM = Situation(
    wanted=RUNNING,
    serving_ready=True,
    serving_plan=RUNNING.id,
    applying=False,
    child_busy=False,
    sync_due=False,
    is_deferred=False,
    target=None,
    held=None,
    held_reason=None,
    passed=(),
    quarantine={},
)


def after(**changes: object) -> Situation:
    return dataclasses.replace(CALM, **changes)  # type: ignore[arg-type]


def test_nothing_to_do_when_all_is_as_wanted() -> None:
    assert reconcile.decide(CALM) is None


def test_a_fresh_serving_process_is_told_the_plan_first() -> None:
    assert reconcile.decide(after(serving_plan=None, target=TARGET, sync_due=True)) == Serve(RUNNING)


def test_an_unready_serving_process_is_told_nothing() -> None:
    assert reconcile.decide(after(serving_plan=None, serving_ready=False)) is None


def test_an_empty_plan_is_served_too() -> None:
    assert reconcile.decide(after(wanted=Plan(), serving_plan=None)) == Serve(Plan())


def test_a_due_sync_starts_unless_a_child_runs() -> None:
    assert reconcile.decide(after(sync_due=True)) == Sync()
    assert reconcile.decide(after(sync_due=True, child_busy=True)) is None
    assert reconcile.decide(after(sync_due=True, applying=True)) is None


def test_a_target_is_probed_then_activated() -> None:
    assert reconcile.decide(after(target=TARGET)) == Probe(NEW)
    assert reconcile.decide(after(target=TARGET, is_deferred=True)) is None
    assert reconcile.decide(after(target=TARGET, child_busy=True)) is None
    assert reconcile.decide(after(target=TARGET, passed=(NEW.key,))) == Activate(TARGET)


def test_outside_its_window_a_target_is_probed_and_waits() -> None:
    assert reconcile.decide(after(target=TARGET, may_activate=False)) == Probe(NEW)
    ready = after(target=TARGET, may_activate=False, passed=(NEW.key,))
    assert reconcile.decide(ready) is None
    assert reconcile.decide(dataclasses.replace(ready, sync_due=True)) == Sync()
    assert reconcile.decide(dataclasses.replace(ready, held=reconcile.identity(TARGET))) is not None


def test_what_waits_for_its_window_is_told_whatever_else_runs() -> None:
    ready = after(target=TARGET, may_activate=False, passed=(NEW.key,))
    assert reconcile.waits_for_window(ready)
    assert reconcile.waits_for_window(dataclasses.replace(ready, child_busy=True))
    assert not reconcile.waits_for_window(dataclasses.replace(ready, may_activate=True))
    assert not reconcile.waits_for_window(dataclasses.replace(ready, passed=()))
    assert not reconcile.waits_for_window(dataclasses.replace(ready, quarantine={NEW.sha256: "bad"}))
    assert not reconcile.waits_for_window(CALM)


def test_a_version_that_serves_already_is_not_probed_again() -> None:
    both = plan(3, OLD, version("other", "1"))
    assert reconcile.decide(after(target=both)) == Probe(both.versions[1])


def test_a_quarantined_target_is_dropped_and_another_variant_asked_for() -> None:
    action = reconcile.decide(after(target=TARGET, quarantine={NEW.sha256: "bad"}))
    assert isinstance(action, DropTarget)
    assert action.resync
    assert "bad" in action.reason


def test_a_held_target_is_dropped_for_good() -> None:
    held = after(target=TARGET, held=reconcile.identity(TARGET))
    assert reconcile.decide(held) == DropTarget("An operator rolled back from it.", resync=False)
    held = dataclasses.replace(held, held_reason="It was slow.")
    assert reconcile.decide(held) == DropTarget("It was slow.", resync=False)


def test_a_model_that_loses_its_version_falls_back_to_the_one_before() -> None:
    served = reconcile.effective(TARGET, {"m": (OLD,)}, {NEW.sha256})
    assert served.versions == (OLD,)
    assert served.serial == TARGET.serial
    assert served.id not in ("", TARGET.id)


def test_other_models_are_left_alone_when_one_falls_back() -> None:
    other = version("other", "1")
    served = reconcile.effective(plan(2, NEW, other), {"m": (OLD,)}, {NEW.sha256})
    assert sorted(found.key for found in served.versions) == sorted([OLD.key, other.key])


def test_a_model_without_a_sound_version_is_not_served() -> None:
    assert reconcile.effective(TARGET, {"m": (OLD,)}, {NEW.sha256, OLD.sha256}).versions == ()


def test_a_plan_without_a_version_still_says_how_requests_are_assigned() -> None:
    other = version("m", "3")
    policies = (ModelPlan("m", experiment="x", epoch=2),)
    target = dataclasses.replace(plan(2, NEW, other), policies=policies)
    served = reconcile.effective(target, {}, {NEW.sha256})
    assert (served.versions, served.policies) == ((other,), policies)


def test_an_unchanged_model_keeps_what_it_falls_back_to() -> None:
    other = version("other", "1")
    assert reconcile.superseded(plan(2, NEW), plan(3, NEW, other), {"m": (OLD,)})["m"] == (OLD,)
    assert reconcile.superseded(plan(1, OLD), plan(2, NEW), {})["m"] == (OLD,)


def test_what_was_on_trial_is_nothing_to_fall_back_to() -> None:
    other = version("other", "1")
    fallback = {"m": (OLD, NEW), "other": (other,), "gone": (OLD,)}
    assert reconcile.gone_back(plan(1, OLD, other), fallback, {NEW.key, other.key}) == {"m": (OLD,)}


VERSIONS = st.sampled_from([version(model, name) for model in ("m", "n") for name in ("1", "2", "3")])
PLANS = st.builds(
    lambda serial, versions: plan(serial, *versions),
    st.integers(1, 9),
    st.lists(VERSIONS, max_size=4, unique_by=lambda found: found.key),
)


@given(PLANS, PLANS, st.sets(VERSIONS.map(lambda found: found.sha256)), st.booleans())
def test_decisions_come_to_rest(running: Plan, target: Plan, bad: set[str], ready: bool) -> None:
    """Whatever is decided and then done, the walk ends, with no quarantined version activated."""
    now = after(wanted=running, serving_plan=None, serving_ready=ready, target=target)
    quarantine: dict[str, str] = {}
    for _ in range(30):
        action = reconcile.decide(now)
        match action:
            case None:
                break
            case Serve(served):
                now = dataclasses.replace(now, serving_plan=served.id)
            case Probe(tried) if tried.sha256 in bad:
                quarantine[tried.sha256] = "bad"
                now = dataclasses.replace(now, quarantine=dict(quarantine))
            case Probe(tried):
                now = dataclasses.replace(now, passed=(*now.passed, tried.key))
            case Activate(new):
                assert not quarantine.keys() & {found.sha256 for found in new.versions}
                now = dataclasses.replace(now, wanted=new, serving_plan=new.id, target=None)
            case DropTarget():
                now = dataclasses.replace(now, target=None)
    else:
        raise AssertionError("the decisions never come to rest")
    if ready:
        assert now.target is None
        assert now.serving_plan == now.wanted.id


def test_what_is_deployed_and_not_served_is_told_with_its_reason() -> None:
    deployed, served = plan(1, OLD, version("n", "1")), plan(1, OLD, version("o", "1"))
    assert reconcile.missing(deployed, served, lambda found: f"{found.model}.") == (LeftOut("n", "1", "n."),)
    assert reconcile.missing(served, served, lambda _: "") == ()
