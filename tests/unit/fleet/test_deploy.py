from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.documents.deployment import Arm, Deployment, Guardrails, ModelDeployment
from edge_agent.documents.errors import RequestError
from edge_fleet.deploy import Change, parse_arms, parse_rule, revise
from edge_fleet.experiments import Terms

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def models(**versions: str) -> dict[str, ModelDeployment]:
    return dict(parse_arms(f"{name}={version}") for name, version in versions.items())


def after(*changes: dict[str, Any]) -> Deployment:
    deployment = None
    for change in changes:
        deployment = revise("default", deployment, Change(**change), NOW)
    assert deployment is not None
    return deployment


class TestParsing:
    @pytest.mark.parametrize(
        ("text", "arms"),
        [
            ("digits=1", (Arm(version="1"),)),
            ("digits=1:50,2:50", (Arm(version="1", weight=50), Arm(version="2", weight=50))),
            ("digits=1.0+a", (Arm(version="1.0+a"),)),
        ],
    )
    def test_arms(self, text: str, arms: tuple[Arm, ...]) -> None:
        assert parse_arms(text) == ("digits", ModelDeployment(arms=arms))

    @pytest.mark.parametrize(
        "text", ["", "digits", "=1", "digits=", "digits=1:x", "digits=1:0", "digits=1,1", "d=,", "A b=1"]
    )
    def test_arms_that_make_no_sense(self, text: str) -> None:
        with pytest.raises(RequestError, match="write NAME=VERSION or"):
            parse_arms(text)

    def test_rules(self) -> None:
        rule = parse_rule("site=ulm,url=http://x:south")
        assert (rule.group, rule.labels) == ("south", {"site": "ulm", "url": "http://x"})

    @pytest.mark.parametrize("text", ["", "south", "site:south", "=ulm:south", "site=ulm:South", "site=ulm:"])
    def test_rules_that_make_no_sense(self, text: str) -> None:
        with pytest.raises(RequestError):
            parse_rule(text)


class TestRevise:
    def test_models_are_added_to_those_that_run(self) -> None:
        deployment = after({"models": models(a="1", b="1")}, {"models": models(b="2")})
        assert deployment.stable.models == models(a="1", b="2")
        assert deployment.serial == 2

    def test_replace_and_remove(self) -> None:
        first = {"models": models(a="1", b="1")}
        assert after(first, {"models": models(c="1"), "replace": True}).stable.models == models(c="1")
        assert after(first, {"remove": frozenset({"a"})}).stable.models == models(b="1")
        with pytest.raises(RequestError, match="does not run c"):
            after(first, {"remove": frozenset({"c"})})

    def test_a_candidate_is_the_stable_part_with_other_versions(self) -> None:
        deployment = after(
            {"models": models(a="1", b="1")},
            {"candidate": models(a="2"), "percentage": 10.0},
            {"models": models(b="2")},
        )
        assert deployment.candidate is not None
        assert deployment.stable.models == models(a="1", b="2")
        assert deployment.candidate.models == models(a="2", b="2")
        assert deployment.candidate.rollout.percentage == 10

    def test_the_same_devices_stay_inside_while_the_share_grows(self) -> None:
        changes = [{"models": models(a="1")}, {"candidate": models(a="2"), "percentage": 10.0}]
        begun = after(*changes).candidate
        grown = after(*changes, {"percentage": 50.0}).candidate
        again = after(*changes, {"candidate": models(a="2"), "percentage": 60.0}).candidate
        other = after(*changes, {"candidate": models(a="3"), "percentage": 10.0}).candidate
        assert begun is not None
        assert grown is not None
        assert again is not None
        assert other is not None
        assert begun.rollout.salt == grown.rollout.salt == again.rollout.salt != other.rollout.salt
        assert (grown.rollout.percentage, again.rollout.percentage) == (50, 60)

    def test_a_candidate_ends_when_dropped_or_when_it_has_become_stable(self) -> None:
        changes = [{"models": models(a="1")}, {"candidate": models(a="2"), "percentage": 10.0}]
        assert after(*changes, {"drop_candidate": True}).candidate is None
        assert after(*changes, {"models": models(a="2")}).candidate is None

    def test_what_makes_no_sense_is_refused(self) -> None:
        with pytest.raises(RequestError, match="no candidate that differs"):
            after({"models": models(a="1"), "percentage": 10.0})
        with pytest.raises(RequestError, match=r"120\.0 is not a percentage"):
            after({"candidate": models(a="1"), "percentage": 120.0})
        with pytest.raises(RequestError, match="Serial 1 is not after 1"):
            after({"models": models(a="1")}, {"models": models(a="2"), "serial": 1})
        with pytest.raises(RequestError, match="cannot be a group"):
            revise("South", None, Change(models=models(a="1")), NOW)

    @given(st.lists(st.integers(1, 1000), min_size=1, max_size=8))
    def test_serials_only_grow(self, steps: list[int]) -> None:
        deployment = revise("default", None, Change(), NOW)
        for step in steps:
            wanted = deployment.serial + step if step % 2 else None
            revised = revise("default", deployment, Change(serial=wanted), NOW)
            assert revised.serial > deployment.serial
            deployment = revised


class TestWindow:
    def test_a_window_belongs_to_the_candidate_and_goes_on_with_it(self) -> None:
        base = {"models": models(a="1")}, {"candidate": models(a="2"), "window": "02:00-05:00 UTC"}
        kept = after(*base, {"percentage": 50})
        assert kept.candidate is not None
        assert (kept.candidate.rollout.window, kept.candidate.rollout.percentage) == ("02:00-05:00 UTC", 50)
        removed = after(*base, {"window": ""})
        assert removed.candidate is not None
        assert removed.candidate.rollout.window is None
        another = after(*base, {"candidate": models(a="3")})
        assert another.candidate is not None
        assert another.candidate.rollout.window is None

    def test_what_is_no_window_is_refused(self) -> None:
        with pytest.raises(
            RequestError, match=r"The window has '2-5', which is no window such as '02:00-05:00'"
        ):
            after({"models": models(a="1")}, {"candidate": models(a="2"), "window": "2-5"})

    def test_a_window_needs_a_candidate(self) -> None:
        with pytest.raises(RequestError, match="no candidate"):
            after({"models": models(a="1")}, {"window": "02:00-05:00"})


class TestTrials:
    def test_the_bake_time_stays_until_it_is_changed(self) -> None:
        first = {"models": models(a="1")}
        assert after(first).bake_s == 600
        assert after({**first, "bake_s": 30.0}, {"models": models(a="2")}).bake_s == 30
        with pytest.raises(RequestError, match="no bake time"):
            after({**first, "bake_s": -1.0})

    def test_guardrails_stay_and_are_changed_one_by_one(self) -> None:
        strict = {"models": models(a="1"), "terms": Terms(guardrails={"max_error_rate": 0.01})}
        fast = {"models": models(a="2"), "terms": Terms(guardrails={"max_p99_ratio": None})}
        found = after(strict, fast, {"models": models(a="3", b="1")}).stable.models
        assert found["a"].guardrails == Guardrails(max_error_rate=0.01, max_p99_ratio=None)
        assert found["b"].guardrails == Guardrails()

    @pytest.mark.parametrize("wrong", [{"max_error_rate": 1.5}, {"max_p99_ratio": 0.5}, {"min_requests": 0}])
    def test_guardrails_that_make_no_sense(self, wrong: dict[str, float | None]) -> None:
        with pytest.raises(RequestError, match="no guardrails"):
            after({"models": models(a="1"), "terms": Terms(guardrails=wrong)})
