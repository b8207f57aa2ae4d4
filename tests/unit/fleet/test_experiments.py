from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from edge_agent.documents.deployment import Arm, Batching, CachePolicy, Deployment, Experiment, ModelDeployment
from edge_agent.documents.errors import RequestError
from edge_fleet.deploy import Change, parse_arms, revise
from edge_fleet.experiments import Draw, Terms, parse_batching, past_epochs, settle
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
    assert past_epochs(fleet.repository.files, "default") == {"digits": 2}
    assert past_epochs(fleet.repository.files, "other") == {}


@pytest.mark.parametrize(
    ("text", "batching"),
    [
        ("8", Batching(max_size=8)),
        ("8:500", Batching(max_size=8, max_delay_us=500)),
        ("off", Batching()),
    ],
)
def test_batching_is_read(text: str, batching: Batching) -> None:
    assert parse_batching(text) == batching


@pytest.mark.parametrize("text", ["", "x", "8:x", "0", "-1", "8:-1", "1000000"])
def test_what_is_no_batching_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="write SIZE or SIZE:DELAY_US, or off"):
        parse_batching(text)


def test_batching_and_a_share_of_the_cache_stay_until_they_are_changed() -> None:
    known = ModelDeployment(
        arms=(Arm(version="1"),), batching=Batching(max_size=8), cache=CachePolicy(share=0.5, max_input_bytes=7)
    )
    wanted = ModelDeployment(arms=(Arm(version="2"),))
    kept = settle("m", wanted, [known], Terms(cache_ttl_s=3.0), Draw("salt"))
    assert (kept.batching.max_size, kept.cache.share, kept.cache.max_input_bytes) == (8, 0.5, 7)
    assert kept.cache.ttl_s == 3.0
    off = settle("m", wanted, [known], Terms(batching=parse_batching("off")), Draw("salt"))
    assert off.batching.max_size == 1
