"""A real serving process remembers answers, and never gives a wrong one."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_agent.client import InferResult
from edge_agent.documents.errors import RequestError
from edge_agent.documents.settings import CacheSettings, HttpSettings
from edge_agent.policy.prediction_id import decode
from support.agent import wait_until
from support.models import affine_onnx
from support.remembering import (
    SECRET,
    Serving,
    answer_of,
    experiment,
    identity_onnx,
    noisy_onnx,
    picky_onnx,
    version_plan,
)

SIX = np.arange(6, dtype=np.float32)


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    with Serving(tmp_path) as process:
        yield process


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """A model whose runs take long enough for other requests to come in."""
    return noisy_onnx(tmp_path / "slow.onnx", size=512, rounds=10)


def infer(
    serving: Serving, x: NDArray[Any], *, version: str | None = None, model: str = "m", **parameters: Any
) -> InferResult:
    with serving.client() as client:
        return client.infer(model, {"x": x}, version, parameters=parameters)


def cache_of(result: InferResult) -> str:
    return str(result.parameters["cache"])


class TestRightAnswers:
    def test_an_equal_request_gets_the_same_answer_without_a_run(
        self, serving: Serving, tmp_path: Path
    ) -> None:
        serving.apply(version_plan(noisy_onnx(tmp_path / "m.onnx")))
        first, again, fresh = (infer(serving, SIX.reshape(3, 2), cache=flag) for flag in (True, True, False))
        assert [cache_of(each) for each in (first, again, fresh)] == ["miss", "hit", "bypass"]
        assert np.array_equal(first.outputs["y"], again.outputs["y"])
        assert not np.array_equal(first.outputs["y"], fresh.outputs["y"])
        assert first.prediction_id != again.prediction_id
        assert np.array_equal(infer(serving, SIX.reshape(3, 2)).outputs["y"], first.outputs["y"])

    def test_the_same_bytes_in_another_shape(self, serving: Serving, tmp_path: Path) -> None:
        serving.apply(version_plan(noisy_onnx(tmp_path / "m.onnx")))
        for shape in ((3, 2), (2, 3), (6, 1)):
            result = infer(serving, SIX.reshape(shape))
            assert cache_of(result) == "miss"
            assert np.array_equal(result.outputs["z"], -SIX.reshape(shape))

    def test_other_outputs_of_the_same_input(self, serving: Serving, tmp_path: Path) -> None:
        serving.apply(version_plan(noisy_onnx(tmp_path / "m.onnx")))
        x = SIX.reshape(3, 2)
        with serving.client() as client:
            for wanted in (["y"], ["z"], ["z", "y"]):
                result = client.infer("m", {"x": x}, outputs=wanted)
                assert (cache_of(result), list(result.outputs)) == ("miss", wanted)
            result = client.infer("m", {"x": x}, outputs=["z"])
        assert cache_of(result) == "hit"
        assert np.array_equal(result.outputs["z"], -x)

    def test_the_same_bytes_of_another_datatype(self, serving: Serving, tmp_path: Path) -> None:
        kinds = {"FLOAT": np.float32, "INT32": np.int32, "UINT8": np.uint8}
        serving.apply(
            *(version_plan(identity_onnx(tmp_path / f"{kind}.onnx", kind), version=kind) for kind in kinds)
        )
        for kind, dtype in kinds.items():
            x = SIX.view(dtype).reshape(2, -1)
            result = infer(serving, x, version=kind)
            assert cache_of(result) == "miss"
            assert result.outputs["y"].dtype == dtype
            assert np.array_equal(result.outputs["y"], x)

    def test_a_file_replaced_under_the_same_version(self, serving: Serving, tmp_path: Path) -> None:
        x = np.ones((1, 3), np.float32)
        path = tmp_path / "m.onnx"
        for factor in (2.0, 3.0, 2.0):
            serving.apply(version_plan(affine_onnx(path, factor)))
            for expected in ("miss", "hit"):
                result = infer(serving, x)
                assert (cache_of(result), float(result.outputs["y"][0, 0])) == (expected, factor)
            assert serving.metrics()["edge_agent_cache_entries"] == 1

    def test_two_models_with_the_same_input(self, serving: Serving, tmp_path: Path) -> None:
        factors = {"double": 2.0, "triple": 3.0}
        serving.apply(
            *(
                version_plan(affine_onnx(tmp_path / f"{name}.onnx", factor), name)
                for name, factor in factors.items()
            )
        )
        for expected in ("miss", "hit"):
            for name, factor in factors.items():
                result = infer(serving, np.ones((1, 3), np.float32), model=name)
                assert (cache_of(result), float(result.outputs["y"][0, 0])) == (expected, factor)

    def test_two_arms(self, serving: Serving, tmp_path: Path) -> None:
        versions = [
            version_plan(affine_onnx(tmp_path / f"{name}.onnx", float(name)), version=name) for name in "23"
        ]
        serving.apply(*versions, policies=[experiment(("2", 1), ("3", 1), unit="key")])
        arms = set()
        for number in range(20):
            result = infer(serving, np.ones((1, 3), np.float32), unit=number)
            assert float(result.outputs["y"][0, 0]) == float(result.model_version)
            assert result.arm == f"arm-{result.model_version}"
            arms.add(result.arm)
        assert len(arms) == 2
        samples = serving.metrics()
        for version in "23":
            assert (
                samples[f'edge_agent_cache_requests_total{{model="m",version="{version}",result="miss"}}'] == 1
            )

    def test_json_and_binary_requests_share_a_result(self, serving: Serving, tmp_path: Path) -> None:
        serving.apply(version_plan(noisy_onnx(tmp_path / "m.onnx")))
        binary = infer(serving, SIX.reshape(3, 2))
        tensor = {"name": "x", "datatype": "FP32", "shape": [3, 2], "data": SIX.tolist()}
        status, answer = answer_of(serving.post({"inputs": [tensor], "id": "7"}))
        assert (status, answer["id"], answer["parameters"]["cache"]) == (200, "7", "hit")
        assert np.allclose(answer["outputs"][0]["data"], binary.outputs["y"].ravel())


class TestBounds:
    def test_memory_is_bounded_and_counted(self, tmp_path: Path) -> None:
        limit = 20_000
        with Serving(tmp_path, CacheSettings(max_bytes=limit)) as serving:
            serving.apply(version_plan(noisy_onnx(tmp_path / "m.onnx")))
            for number in range(40):
                infer(serving, np.full((1, 100), number, np.float32))
            samples = serving.metrics()
        assert 0 < samples["edge_agent_cache_bytes"] <= limit == samples["edge_agent_cache_max_bytes"]
        assert samples["edge_agent_cache_entries"] + samples["edge_agent_cache_evictions_total"] == 40

    def test_a_large_input_bypasses_it(self, serving: Serving, tmp_path: Path) -> None:
        serving.apply(
            version_plan(noisy_onnx(tmp_path / "m.onnx")),
            policies=[experiment(("1", 1), cache_max_input_bytes=24)],
        )
        assert cache_of(infer(serving, SIX.reshape(1, 6))) == "miss"
        assert cache_of(infer(serving, np.zeros((1, 7), np.float32))) == "bypass"

    def test_a_model_may_do_without_it_and_it_may_be_off(self, serving: Serving, tmp_path: Path) -> None:
        plan = version_plan(noisy_onnx(tmp_path / "m.onnx"))
        serving.apply(plan, policies=[experiment(("1", 1), cache=False)])
        assert [cache_of(infer(serving, SIX.reshape(1, 6))) for _ in range(2)] == ["bypass", "bypass"]
        other = tmp_path / "off"
        other.mkdir()
        with Serving(other, CacheSettings(max_bytes=0)) as off:
            off.apply(plan)
            assert [cache_of(infer(off, SIX.reshape(1, 6))) for _ in range(2)] == ["bypass", "bypass"]

    def test_results_grow_old(self, serving: Serving, tmp_path: Path) -> None:
        plan = version_plan(noisy_onnx(tmp_path / "m.onnx"))
        serving.apply(plan, policies=[experiment(("1", 1), cache_ttl_s=1e-9)])
        assert [cache_of(infer(serving, SIX.reshape(1, 6))) for _ in range(2)] == ["miss", "miss"]
        serving.apply(plan, policies=[experiment(("1", 1), cache_ttl_s=3600.0)])
        assert cache_of(infer(serving, SIX.reshape(1, 6))) == "hit"

    @pytest.mark.parametrize("value", ["no", 0, None])
    def test_the_parameter_is_true_or_false(self, serving: Serving, tmp_path: Path, value: object) -> None:
        serving.apply(version_plan(noisy_onnx(tmp_path / "m.onnx")))
        with pytest.raises(RequestError, match="cache must be true or false"):
            infer(serving, SIX.reshape(1, 6), cache=value)


BODY = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}


class TestOneRun:
    def test_concurrent_equal_requests_share_one(self, serving: Serving, slow: Path) -> None:
        serving.apply(plan := version_plan(slow))
        answers = [answer_of(each) for each in [serving.post(BODY) for _ in range(8)]]
        assert [status for status, _ in answers] == [200] * 8
        assert len({tuple(answer["outputs"][0]["data"]) for _, answer in answers}) == 1
        assert len({answer["parameters"]["prediction_id"] for _, answer in answers}) == 8
        assert sorted(answer["parameters"]["cache"] for _, answer in answers) == ["hit"] * 7 + ["miss"]
        assert serving.exposures(plan) == 8

    def test_those_that_want_none_of_it_run_alone(self, serving: Serving, slow: Path) -> None:
        serving.apply(version_plan(slow))
        alone = {**BODY, "parameters": {"cache": False}}
        answers = [answer_of(each)[1] for each in [serving.post(body) for body in (BODY, alone, alone)]]
        assert len({tuple(answer["outputs"][0]["data"]) for answer in answers}) == 3

    def test_an_error_goes_to_all_and_is_not_remembered(self, serving: Serving, tmp_path: Path) -> None:
        serving.apply(version_plan(picky_onnx(tmp_path / "m.onnx")))
        for _ in range(2):
            answers = [answer_of(each) for each in [serving.post(BODY) for _ in range(4)]]
            assert [status for status, _ in answers] == [500] * 4
            assert all("error" in answer for _, answer in answers)
        samples = serving.metrics()
        assert samples["edge_agent_cache_entries"] == 0
        assert samples['edge_agent_cache_requests_total{model="m",version="1",result="miss"}'] >= 2

    def test_those_who_wait_do_not_lose_their_answer_with_the_first(self, serving: Serving, slow: Path) -> None:
        serving.apply(version_plan(slow))
        blockers = [serving.post({**BODY, "parameters": {"cache": False}}) for _ in range(4)]
        first, other = serving.post(BODY), serving.post(BODY)
        name = 'edge_agent_cache_requests_total{model="m",version="1",result="hit"}'
        wait_until(lambda: serving.metrics()[name] == 1, "the second waits for the first")
        first.close()
        status, answer = answer_of(other)
        assert (status, answer["parameters"]["cache"]) == (200, "hit")
        assert all(answer_of(each)[0] == 200 for each in blockers)
        assert serving.metrics()['edge_agent_requests_in_flight{model="m",version="1"}'] == 0

    def test_a_run_that_nobody_waits_for_any_more_is_dropped(self, serving: Serving, slow: Path) -> None:
        serving.apply(version_plan(slow))
        blockers = [serving.post({**BODY, "parameters": {"cache": False}}) for _ in range(4)]
        gone = [serving.post(BODY) for _ in range(3)]
        in_flight = 'edge_agent_requests_in_flight{model="m",version="1"}'
        wait_until(lambda: serving.metrics()[in_flight] >= 4, "all have come in")
        for each in gone:
            each.close()
        assert all(answer_of(each)[0] == 200 for each in blockers)
        wait_until(lambda: serving.metrics()[in_flight] == 0, "nothing is left")
        assert answer_of(serving.post(BODY))[0] == 200

    def test_those_who_wait_are_bounded(self, tmp_path: Path, slow: Path) -> None:
        with Serving(tmp_path, http=HttpSettings(queue_limit=2)) as serving:
            serving.apply(version_plan(slow))
            statuses = [answer_of(each)[0] for each in [serving.post(BODY) for _ in range(12)]]
        assert statuses.count(503) >= 1
        assert set(statuses) == {200, 503}


class TestArms:
    def plans(self, folder: Path, *names: str) -> list[Any]:
        return [version_plan(affine_onnx(folder / f"{name}.onnx", float(name)), version=name) for name in names]

    def test_a_unit_keeps_its_arm_by_parameter_and_by_header(self, serving: Serving, tmp_path: Path) -> None:
        serving.apply(*self.plans(tmp_path, "2", "3"), policies=[experiment(("2", 1), ("3", 1), unit="key")])
        body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 1, 1]}]}
        arms = set()
        for unit in range(12):
            by_number = infer(serving, np.ones((1, 3), np.float32), unit=unit).arm
            by_text = infer(serving, np.ones((1, 3), np.float32), unit=str(unit)).arm
            header = answer_of(serving.post(body, f"Edge-Unit: {unit}\r\n"))[1]["parameters"]["arm"]
            both = {**body, "parameters": {"unit": unit}}
            parameter_wins = answer_of(serving.post(both, "Edge-Unit: other\r\n"))[1]["parameters"]["arm"]
            assert {by_number, by_text, header, parameter_wins} == {by_number}
            arms.add(by_number)
        assert arms == {"arm-2", "arm-3"}
        status, answer = answer_of(serving.post(body, "Edge-Unit: " + "x" * 257 + "\r\n"))
        assert (status, "1 to 256 bytes" in answer["error"]) == (400, True)

    def test_requests_without_a_unit_are_shared_out_by_weight(self, serving: Serving, tmp_path: Path) -> None:
        plans = self.plans(tmp_path, "2", "3")
        serving.apply(*plans, policies=[experiment(("2", 3), ("3", 1))])
        with serving.client() as client:
            arms = [client.infer("m", {"x": np.ones((1, 3), np.float32)}).arm for _ in range(400)]
        share = arms.count("arm-2") / 400
        # Six standard deviations.
        assert abs(share - 0.75) < 6 * math.sqrt(0.75 * 0.25 / 400)
        assert [serving.exposures(plan) for plan in plans] == [arms.count("arm-2"), arms.count("arm-3")]
        samples = serving.metrics()
        name = 'edge_agent_arm_requests_total{model="m",version="2",arm="arm-2"}'
        assert samples[name] == arms.count("arm-2")

    def test_the_arm_of_a_version_that_is_not_here_falls_back(self, serving: Serving, tmp_path: Path) -> None:
        (plan,) = self.plans(tmp_path, "2")
        serving.apply(plan, policies=[experiment(("2", 1), ("3", 1), unit="key")])
        results = [infer(serving, np.ones((1, 3), np.float32), unit=number) for number in range(30)]
        arms = [result.arm for result in results]
        assert {result.model_version for result in results} == {"2"}
        assert set(arms) == {"arm-2", "fallback"}
        assert serving.exposures(plan) == arms.count("arm-2")

    def test_a_version_that_the_request_names_is_no_exposure(self, serving: Serving, tmp_path: Path) -> None:
        plans = self.plans(tmp_path, "2", "3")
        serving.apply(*plans, policies=[experiment(("2", 1), ("3", 1))])
        result = infer(serving, np.ones((1, 3), np.float32), version="3")
        assert (result.arm, result.model_version) == ("direct", "3")
        assert decode(SECRET, result.prediction_id).arm == "direct"
        assert [serving.exposures(plan) for plan in plans] == [0, 0]

    def test_a_device_that_is_the_unit_has_one_arm(self, serving: Serving, tmp_path: Path) -> None:
        serving.apply(*self.plans(tmp_path, "2", "3"), policies=[experiment(("2", 1), ("3", 1), unit="device")])
        results = [infer(serving, np.ones((1, 3), np.float32), unit=number) for number in range(12)]
        assert len({result.arm for result in results}) == 1
        assert len({decode(SECRET, result.prediction_id).bucket for result in results}) == 1

    def test_a_prediction_id_says_what_an_outcome_needs(self, serving: Serving, tmp_path: Path) -> None:
        serving.apply(*self.plans(tmp_path, "2"), policies=[experiment(("2", 1), unit="key")])
        found = [
            decode(SECRET, infer(serving, np.ones((1, 3), np.float32), unit="u").prediction_id)
            for _ in range(2)
        ]
        assert {(each.model, each.experiment, each.epoch, each.arm) for each in found} == {
            ("m", "x", 2, "arm-2")
        }
        assert found[0].bucket == found[1].bucket
        assert found[0].nonce != found[1].nonce

    def test_without_an_experiment_the_version_is_the_arm(self, serving: Serving, tmp_path: Path) -> None:
        (plan,) = self.plans(tmp_path, "2")
        serving.apply(plan)
        result = infer(serving, np.ones((1, 3), np.float32))
        assert result.arm == "2"
        found = decode(SECRET, result.prediction_id)
        assert (found.experiment, found.epoch) == ("m", 0)
        assert serving.exposures(plan) == 1
