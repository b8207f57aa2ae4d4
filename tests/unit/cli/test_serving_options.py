"""What `edge-agent serve` is told of a model beside its file."""

import pytest

from edge_agent.cli.model_files import Served
from edge_agent.cli.serving_options import with_batching, with_states
from edge_agent.documents.errors import RequestError
from edge_agent.documents.plan import BatchingPlan, ModelPlan, StatePair, VersionPlan
from edge_agent.documents.tensors import TensorSpec


def served(name: str, *, first: int = -1) -> Served:
    inputs = (TensorSpec("x", "FP32", (first, 2)), TensorSpec("before", "FP32", (first, 2)))
    outputs = (TensorSpec("after", "FP32", (-1, 2)),)
    plan = VersionPlan(name, "dev", "onnx", "fp32", "0" * 64, "/m", 1, inputs, outputs)
    return Served(plan, takes_zeros=True)


def test_a_state_goes_to_the_models_that_have_it() -> None:
    (model,) = with_states([served("m")], ["before=after"])
    assert model.plan.state == (StatePair("before", "after"),)
    assert with_states([served("m")], [])[0].plan.state == ()


@pytest.mark.parametrize("text", ["before", "=after", "before=", "before=other", "other=after"])
def test_a_state_that_no_model_has_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="--state"):
        with_states([served("m")], [text])


def test_models_with_a_free_first_dimension_are_batched() -> None:
    models, policies = with_batching([served("free"), served("fixed", first=1)], "32:500")
    assert [model.plan.max_batch for model in models] == [32, 0]
    assert policies == (ModelPlan("free", batching=BatchingPlan(32, 500)),)
    assert with_batching([served("free")], None)[1] == ()


@pytest.mark.parametrize("text", ["1", "0", "x", "4:", "4:x", "-4", "4:-1", "100000000"])
def test_what_is_no_batch_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="--batch takes SIZE or SIZE:DELAY_US"):
        with_batching([served("m")], text)


def test_a_batch_that_fits_no_model_is_refused() -> None:
    with pytest.raises(RequestError, match="free first dimension"):
        with_batching([served("m", first=1)], "8")
