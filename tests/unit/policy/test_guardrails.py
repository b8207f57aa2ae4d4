"""What a version on trial is taken back for, and that chance alone is no reason."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.documents.plan import GuardrailPlan
from edge_agent.policy.guardrails import Bake, Figures, breach, certain_share, plus, since, worst
from edge_agent.policy.run_times import bucket

DEFAULTS = GuardrailPlan()


def runs(*milliseconds: float, times: int = 1) -> dict[int, int]:
    found: dict[int, int] = {}
    for value in milliseconds:
        index = bucket(round(value * 1e6))
        found[index] = found.get(index, 0) + times
    return found


figures = st.builds(
    Figures,
    st.integers(0, 1000),
    st.integers(0, 1000),
    st.dictionaries(st.integers(0, 207), st.integers(1, 99)),
)


@pytest.mark.parametrize(
    ("requests", "errors", "is_breach"),
    [(19, 19, False), (20, 20, True), (20, 3, False), (100, 0, False), (100, 5, False), (100, 30, True)],
)
def test_the_error_rate(requests: int, errors: int, is_breach: bool) -> None:
    assert (breach(Figures(requests, errors), Figures(), DEFAULTS) is not None) == is_breach


def test_the_reason_names_the_figures_and_the_limit() -> None:
    assert breach(Figures(50, 20), Figures(), DEFAULTS) == "20 of 50 requests failed, more than 5 %"
    slow, quick = Figures(140, 0, runs(200, times=140)), Figures(140, 0, runs(10, times=140))
    reason = breach(slow, quick, DEFAULTS)
    assert reason is not None
    assert reason.startswith("the p99 of 140 runs is 2")


def test_errors_that_the_old_version_had_as_often_are_no_reason_to_go_back() -> None:
    assert breach(Figures(200, 60), Figures(1000, 300), DEFAULTS) is None
    assert breach(Figures(200, 180), Figures(1000, 300), DEFAULTS) is not None


@pytest.mark.parametrize(
    ("now_ms", "is_breach"), [(1.0, False), (3.0, False), (7.0, False), (12.0, True), (1000.0, True)]
)
def test_the_p99_is_held_against_that_of_before_with_some_slack(now_ms: float, is_breach: bool) -> None:
    seen, before = Figures(100, 0, runs(now_ms, times=100)), Figures(100, 0, runs(1.0, times=100))
    assert (breach(seen, before, DEFAULTS) is not None) == is_breach


def test_too_few_runs_on_either_side_say_nothing() -> None:
    slow, quick = runs(100, times=100), runs(1, times=100)
    assert breach(Figures(100, 0, slow), Figures(99, 0, runs(1, times=99)), DEFAULTS) is None
    assert breach(Figures(99, 0, runs(100, times=99)), Figures(100, 0, quick), DEFAULTS) is None
    assert breach(Figures(100, 0, slow), Figures(100, 0, quick), DEFAULTS) is not None


def test_a_pause_of_the_machine_is_no_breach() -> None:
    before = Figures(1000, 0, runs(1, times=1000))
    assert breach(Figures(100, 0, runs(1, times=92) | runs(200, times=8)), before, DEFAULTS) is None
    assert breach(Figures(100, 0, runs(1, times=80) | runs(200, times=20)), before, DEFAULTS) is not None


def test_what_is_not_limited_is_never_breached() -> None:
    free = GuardrailPlan(max_error_rate=None, max_p99_ratio=None)
    assert breach(Figures(50, 50, runs(1000, times=50)), Figures(50, 0, runs(1, times=50)), free) is None


def test_a_rate_within_the_limit_is_hardly_ever_taken_for_a_breach() -> None:
    """Looked at once a second, over ten minutes and 3,000 requests, with a true rate right below the limit."""
    dice, breaches = random.Random(6), 0
    for _ in range(200):
        requests = errors = 0
        for _ in range(600):
            requests += 5
            errors += sum(dice.random() < 0.04 for _ in range(5))
            if breach(Figures(requests, errors), Figures(), DEFAULTS):
                breaches += 1
                break
    assert breaches <= 4


@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_a_certain_share_is_below_the_share_and_comes_near_it(hits: int, misses: int) -> None:
    of = hits + misses
    share = certain_share(hits, of)
    assert 0 <= share <= (hits / of if of else 0) + 1e-12
    if of:
        assert certain_share(100 * hits, 100 * of) >= share - 1e-12


@given(figures, figures)
def test_what_is_added_is_what_was_done_since(one: Figures, other: Figures) -> None:
    assert since(plus(one, other), one) == other


def test_a_slot_that_counts_anew_has_done_all_of_it() -> None:
    assert since(Figures(3, 1, {5: 3}), Figures(10, 0, {5: 10})) == Figures(3, 1, {5: 3})


def test_each_version_is_held_against_its_own_model() -> None:
    strict, lax = GuardrailPlan(max_error_rate=0.1), GuardrailPlan(max_error_rate=None)
    bad = Figures(100, 50)
    models, limits = {"a/1/x": "a", "b/1/y": "b"}, {"a": lax, "b": strict}
    bake = Bake(("a/1/x", "b/1/y"), 60.0, seen={"a/1/x": bad})
    assert worst(bake, models, limits) is None
    bake = Bake(("a/1/x", "b/1/y"), 60.0, seen={"a/1/x": bad, "b/1/y": bad})
    found = worst(bake, models, limits)
    assert found is not None
    assert found[0] == "b/1/y"
