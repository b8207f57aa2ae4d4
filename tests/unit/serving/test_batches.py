"""Which jobs are run together: never what does not fit, never more than allowed, and nobody is forgotten."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.documents.plan import BatchingPlan, StatePair, VersionPlan
from edge_agent.documents.tensors import TensorSpec
from edge_agent.serving.batcher import run_together
from edge_agent.serving.batches import NEVER, Batching, Decision, batch_limit, batching, decide
from edge_agent.serving.calls import Signature
from edge_agent.serving.jobs import FIRST, NORMAL, Job, JobQueue

LOADED: Any = SimpleNamespace()


class Waiting(Job, eq=False, kw_only=True):
    name: int = 0


def job(
    rows: int = 1,
    *,
    width: int = 2,
    wanted: tuple[str, ...] = ("y",),
    queued_ns: int = 0,
    deadline_ns: int | None = None,
    priority: int = NORMAL,
    is_batch: bool = True,
    name: int = 0,
) -> Waiting:
    return Waiting(
        loaded=LOADED,
        inputs={"x": np.full((rows, width), name, np.float32)},
        wanted=wanted,
        size_bytes=0,
        rows=rows if is_batch else 0,
        queued_ns=queued_ns,
        deadline_ns=deadline_ns,
        priority=priority,
        name=name,
    )


def queue(*jobs: Job) -> JobQueue:
    waiting = JobQueue()
    for each in jobs:
        waiting.append(each)
    return waiting


def plan(max_batch: int, state: tuple[StatePair, ...] = ()) -> VersionPlan:
    return VersionPlan("m", "1", "onnx", "fp32", "0" * 64, "/m", 1, (), (), max_batch=max_batch, state=state)


def signature(*shapes: tuple[int, ...]) -> Signature:
    return Signature(
        {"x": TensorSpec("x", "FP32", shapes[0])},
        {f"y{index}": TensorSpec(f"y{index}", "FP32", shape) for index, shape in enumerate(shapes[1:])},
    )


class TestLimits:
    def test_a_batch_is_what_the_manifest_calls_one_and_every_tensor_has_free(self) -> None:
        assert batch_limit(plan(8), signature((-1, 2), (-1,))) == 8
        assert batch_limit(plan(0), signature((-1, 2), (-1,))) == 0

    @pytest.mark.parametrize(
        "shapes", [((1, 2), (-1,)), ((-1, 2), (3,)), ((-1, 2), (-1,), ()), ((2, -1), (-1,))]
    )
    def test_a_fixed_first_dimension_is_never_a_batch(self, shapes: tuple[tuple[int, ...], ...]) -> None:
        assert batch_limit(plan(8), signature(*shapes)) == 0

    def test_a_model_with_state_is_never_batched(self) -> None:
        assert batch_limit(plan(8, (StatePair("s", "t"),)), signature((-1, 2), (-1,))) == 0

    def test_the_smaller_limit_counts(self) -> None:
        policy = BatchingPlan(max_size=16, max_delay_us=3, preferred=(4, 12))
        assert batching(policy, 8) == Batching(8, 3000, (4,))
        assert batching(policy, 1) == batching(policy, 0) == batching(BatchingPlan(), 64) == NEVER


class TestDecisions:
    POLICY = Batching(max_size=8, max_delay_ns=100)

    def test_all_that_wait_go_together_when_a_worker_is_free(self) -> None:
        assert decide(queue(job(), job(2), job(3)), Batching(max_size=8), 0, math.inf) == Decision(3)

    def test_it_waits_for_more_from_the_oldest_on(self) -> None:
        waiting = queue(job(queued_ns=50), job(queued_ns=90))
        assert decide(waiting, self.POLICY, 149, math.inf) == Decision(0, 150)
        assert decide(waiting, self.POLICY, 150, math.inf) == Decision(2)

    def test_a_full_batch_does_not_wait(self) -> None:
        assert decide(queue(job(5), job(3), job(1)), self.POLICY, 0, math.inf) == Decision(2)
        assert decide(queue(job(5), job(4)), self.POLICY, 0, math.inf) == Decision(1)

    def test_a_preferred_size_does_not_wait_and_is_not_exceeded(self) -> None:
        policy = Batching(max_size=8, max_delay_ns=100, preferred=(2, 4))
        assert decide(queue(job()), policy, 0, math.inf) == Decision(0, 100)
        assert decide(queue(job(), job(), job()), policy, 0, math.inf) == Decision(2)
        assert decide(queue(*[job() for _ in range(7)]), policy, 0, math.inf) == Decision(4)
        assert decide(queue(job(3)), policy, 100, math.inf) == Decision(1)

    def test_a_deadline_is_waited_for_no_longer_than_a_run_allows(self) -> None:
        waiting = queue(job(), job(deadline_ns=90))
        assert decide(waiting, self.POLICY, 69, 10) == Decision(0, 70)
        assert decide(waiting, self.POLICY, 70, 10) == Decision(2)

    @pytest.mark.parametrize("other", [job(width=3), job(wanted=("z",)), job(is_batch=False)])
    def test_what_does_not_fit_ends_the_batch_at_once(self, other: Job) -> None:
        assert decide(queue(job(), job(), other, job()), self.POLICY, 0, math.inf) == Decision(2)
        assert decide(queue(other, job()), Batching(max_size=8), 0, math.inf) == Decision(1)

    def test_a_request_larger_than_the_limit_runs_alone(self) -> None:
        assert decide(queue(job(9), job()), self.POLICY, 0, math.inf) == Decision(1)

    def test_priority_goes_before_arrival(self) -> None:
        waiting = queue(job(name=1), job(name=2, priority=FIRST), job(name=3), job(name=4, priority=FIRST))
        assert [each.name for each in waiting] == [2, 4, 1, 3]  # type: ignore[attr-defined]
        assert [waiting.popleft().name for _ in range(4)] == [2, 4, 1, 3]  # type: ignore[attr-defined]

    def test_one_job_is_taken_out_by_itself(self) -> None:
        one, other = job(), job()
        waiting = queue(one, other)
        assert waiting.remove(one)
        assert not waiting.remove(one)
        assert list(waiting) == [other]


JOBS = st.lists(
    st.builds(
        job,
        st.integers(1, 6),
        width=st.integers(1, 2),
        queued_ns=st.integers(0, 50),
        priority=st.sampled_from((FIRST, NORMAL)),
        is_batch=st.booleans(),
        deadline_ns=st.one_of(st.none(), st.integers(0, 500)),
        name=st.integers(0, 99),
    ),
    min_size=1,
    max_size=20,
)
POLICIES = st.builds(
    Batching,
    st.integers(1, 9),
    st.integers(0, 100),
    st.lists(st.integers(1, 9), max_size=3, unique=True).map(lambda sizes: tuple(sorted(sizes))),
)


@given(JOBS, POLICIES, st.integers(0, 200))
def test_everybody_is_served_in_order_and_in_time(jobs: list[Waiting], policy: Batching, now_ns: int) -> None:
    waiting = queue(*jobs)
    wanted, served = list(waiting), []
    while waiting:
        decision = decide(waiting, policy, now_ns, 10.0)
        if not decision.count:
            # It never waits longer than the delay of the oldest, and gets on when that is over.
            assert (
                now_ns < decision.wait_until_ns <= min(each.queued_ns for each in waiting) + policy.max_delay_ns
            )
            now_ns = decision.wait_until_ns
            continue
        batch = [waiting.popleft() for _ in range(decision.count)]
        if len(batch) > 1:
            assert sum(each.rows for each in batch) <= policy.max_size
            assert len({each.inputs["x"].shape[1:] for each in batch}) == 1
            assert all(each.rows for each in batch)
        served += batch
    assert served == wanted


class Model:
    """A version that runs a function of the test's."""

    def __init__(self, function: Any) -> None:
        self.plan, self.batching, self.batch_limit, self.runs = plan(64), Batching(64), 64, 0
        self._function = function

    def run(self, inputs: dict[str, Any], outputs: Any) -> Any:
        self.runs += 1
        return self._function(inputs["x"]), 7


@given(st.lists(st.integers(1, 5), min_size=2, max_size=8))
def test_each_gets_its_own_rows(rows: list[int]) -> None:
    model: Any = Model(lambda x: {"y": x * 2})
    outcomes = run_together(model, [job(count, name=index) for index, count in enumerate(rows)])
    for index, (count, (_, result, times)) in enumerate(zip(rows, outcomes, strict=True)):
        assert np.array_equal(result["y"], np.full((count, 2), index * 2, np.float32))  # type: ignore[index]
        assert (times.rows, times.infer_ns) == (sum(rows), 7)
    assert sum(times.executions for _, _, times in outcomes) == model.runs == 1


def test_a_poisoned_request_fails_alone() -> None:
    from edge_agent.documents.errors import ModelLoadError

    model: Any = Model(lambda x: ModelLoadError("poison") if (x == 13).any() else {"y": x})
    outcomes = run_together(model, [job(name=name) for name in (1, 13, 2)])
    assert [isinstance(result, ModelLoadError) for _, result, _ in outcomes] == [False, True, False]
    assert [times.executions for _, _, times in outcomes] == [1, 1, 1]
    assert model.batching == Batching(64)


def test_a_model_that_only_fails_on_batches_gets_none_any_more(caplog: pytest.LogCaptureFixture) -> None:
    from edge_agent.documents.errors import ModelLoadError

    model: Any = Model(lambda x: ModelLoadError("reshape") if len(x) > 1 else {"y": x})
    for _ in range(2):
        outcomes = run_together(model, [job(name=name) for name in (1, 2)])
        assert [float(result["y"][0, 0]) for _, result, _ in outcomes] == [1, 2]  # type: ignore[index]
    assert (model.batch_limit, model.batching) == (0, NEVER)
    assert caplog.text.count("fails on a batch of 2 (reshape), not on its requests") == 1


@pytest.mark.parametrize("result", [None, {"y": [[1.0, 1.0]] * 2}, {"y": 1.0}])
def test_results_of_a_plug_in_that_are_none_end_the_batching(result: Any) -> None:
    model: Any = Model(lambda x: result)
    assert [each for _, each, _ in run_together(model, [job(), job()])] == [result, result]
    assert model.batching == NEVER


@pytest.mark.parametrize(
    "function", [lambda x: {"y": x.sum(axis=0)}, lambda x: {"y": x.sum()}, lambda x: {"y": x[1:]}]
)
def test_outputs_that_are_no_rows_end_the_batching(function: Any, caplog: pytest.LogCaptureFixture) -> None:
    model: Any = Model(function)
    outcomes = run_together(model, [job(2, name=name) for name in (1, 2)])
    for (_, result, _), name in zip(outcomes, (1, 2), strict=True):
        assert np.array_equal(result["y"], function(np.full((2, 2), name, np.float32))["y"])  # type: ignore[index]
    assert (model.batch_limit, model.batching) == (0, NEVER)
    assert "run alone from now on" in caplog.text
