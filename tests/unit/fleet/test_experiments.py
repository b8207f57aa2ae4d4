from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from edge_agent.documents.deployment import CachePolicy, Deployment, Experiment, ModelDeployment
from edge_agent.documents.errors import RequestError
from edge_fleet.deploy import Change, parse_arms, parse_batching, revise
from edge_fleet.experiments import Draw, Terms, past_epochs
from support.tiny_fleet import Fleet

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def change(text: str = "", **terms: Any) -> Change:
    return Change(models=dict([parse_arms(text)] if text else []), terms=Terms(**terms))


def deployments(*changes: Change, last_epochs: dict[str, int] | None = None) -> list[Deployment]:
    revised: list[Deployment] = []
    for number, wanted in enumerate(changes):
        draw = Draw(f"salt{number}", last_epochs or {})
        revised.append(revise("default", revised[-1] if revised else None, wanted, NOW, draw))
    return revised


def experiments(*changes: Change, **options: Any) -> list[Experiment | None]:
    return [deployment.stable.models["m"].experiment for deployment in deployments(*changes, **options)]


class TestExperiments:
    def test_two_arms_make_one_and_one_arm_ends_it(self) -> None:
        begun, ended = experiments(change("m=1,2"), change("m=2"))
        assert begun == Experiment(name="m", salt="salt0", epoch=1)
        assert ended is None

    def test_other_weights_are_the_same_epoch(self) -> None:
        first, second = experiments(change("m=1:50,2:50"), change("m=2:10,1:90"))
        assert first == second

    def test_other_arms_and_another_unit_begin_an_epoch_with_the_same_salt(self) -> None:
        found = experiments(change("m=1,2"), change("m=1,3"), change("m=1,3", unit="device"))
        assert [(it.epoch, it.salt) for it in found if it] == [(1, "salt0"), (2, "salt0"), (3, "salt0")]

    def test_another_name_is_another_experiment(self) -> None:
        first, second, third = experiments(
            change("m=1,2"), change("m=1,2", experiment="size"), change("m=1:9,2:1")
        )
        assert first != second
        assert second == third == Experiment(name="size", salt="salt1", epoch=1)

    def test_an_epoch_is_never_used_again(self) -> None:
        assert experiments(change("m=1,2"), last_epochs={"m": 4, "n": 9}) == [
            Experiment(name="m", salt="salt0", epoch=5)
        ]

    def test_the_unit_stays_until_it_is_changed(self) -> None:
        found = deployments(change("m=1,2", unit="key"), change("m=2"), change("m=2,3", unit="request"))
        assert [deployment.stable.models["m"].unit for deployment in found] == ["key", "key", "request"]

    def test_the_cache_stays_until_it_is_changed(self) -> None:
        found = deployments(
            change("m=1", cache=False, cache_ttl_s=2.5), change("m=2"), change("m=2", cache=True)
        )
        policies = [deployment.stable.models["m"].cache for deployment in found]
        assert [(policy.enabled, policy.ttl_s) for policy in policies] == [
            (False, 2.5),
            (False, 2.5),
            (True, 2.5),
        ]

    def test_batching_stays_until_it_is_changed(self) -> None:
        found = deployments(
            change("m=1", batching=dict([parse_batching("m=8:2000")])),
            change("m=2"),
            change("m=2", batching=dict([parse_batching("m=1")])),
        )
        policies = [deployment.stable.models["m"].batching for deployment in found]
        assert [(policy.max_size, policy.max_delay_us) for policy in policies] == [(8, 2000), (8, 2000), (1, 0)]

    def test_a_share_of_the_cache_is_kept(self) -> None:
        name, model = parse_arms("m=1")
        own = model.model_copy(update={"cache": CachePolicy(share=0.5)})
        first, second = deployments(Change(models={name: own}), change("m=2", cache_ttl_s=3.0))
        assert [each.stable.models["m"].cache.share for each in (first, second)] == [0.5, 0.5]

    @pytest.mark.parametrize("text", ["m", "m=", "m=0", "m=x", "m=8:x", "m=8:-1", "m=8:2:3", "m=1e3"])
    def test_what_is_no_batching_is_refused(self, text: str) -> None:
        with pytest.raises(RequestError, match="write --batch MODEL=SIZE"):
            parse_batching(text)

    def test_a_candidate_with_an_experiment_becomes_stable_with_it(self) -> None:
        tried = Change(candidate=dict([parse_arms("m=1,2")]), percentage=10.0)
        first, second, third = deployments(change("m=1"), tried, change("m=1,2"))
        assert second.candidate is not None
        assert second.candidate.models["m"].experiment == Experiment(name="m", salt="salt1", epoch=1)
        assert third.stable.models == second.candidate.models
        assert third.candidate is None
        assert first.stable.models["m"].experiment is None

    def test_what_the_caller_decided_stays(self) -> None:
        name, arms = parse_arms("m=1,2")
        own = ModelDeployment(
            arms=arms.arms, unit="device", experiment=Experiment(name="own", salt="s", epoch=9)
        )
        (deployment,) = deployments(Change(models={name: own}))
        assert deployment.stable.models["m"] == own

    @pytest.mark.parametrize(
        ("wanted", "message"),
        [
            (change("m=1", experiment="e"), "has one arm"),
            (change("m=1,2", experiment="No Name"), "cannot name an experiment"),
            (change("m=1", cache_ttl_s=0.0), "seconds above 0"),
            (change("m=1", cache_ttl_s=float("nan")), "seconds above 0"),
            (change(unit="key"), "belong to a model"),
            (change("m=1", batching=dict([parse_batching("n=8")])), "for 'n', which this does not deploy"),
            (
                Change(models=dict(map(parse_arms, ("m=1,2", "n=1,2"))), terms=Terms(experiment="e")),
                "one model",
            ),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, wanted: Change, message: str) -> None:
        with pytest.raises(RequestError, match=message):
            deployments(wanted)


def test_an_experiment_that_begins_again_has_a_new_epoch_and_salt(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    fleet.repository.create(fleet.keys, fleet.now)
    for version in ("1", "2"):
        fleet.publish("digits", version)
    for arms in ("1,2", "2", "2,1"):
        fleet.deploy(f"digits={arms}")
    contents = fleet.repository.read()
    path = "deployments/default.json"
    now = Deployment.model_validate_json(contents.read_target("deployments", path) or b"")
    experiment = now.stable.models["digits"].experiment
    assert experiment is not None
    assert experiment.epoch == 2
    assert len(experiment.salt) == 32
    (fleet.store / "targets/deployments/00.default.json").write_text("{")
    assert past_epochs(fleet.store, "default") == {"digits": 2}
    assert past_epochs(fleet.store, "other") == {}
