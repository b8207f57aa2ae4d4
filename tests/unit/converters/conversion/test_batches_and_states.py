"""What a recipe says of batches and states must fit the model."""

from datetime import UTC, datetime

import pytest

from converters.conversion.assemble import _check_batch, _check_states
from converters.conversion.identity import Identity
from edge_agent.documents.errors import RequestError
from edge_agent.documents.manifest import Tensor

FREE = Tensor(name="x", datatype="FP32", shape=(-1, 2))
FIXED = Tensor(name="y", datatype="FP32", shape=(1, 2))
SCALAR = Tensor(name="rate", datatype="INT64", shape=())


def identity(max_batch: int | None = None, *state: tuple[str, str]) -> Identity:
    return Identity("m", "1", datetime(2026, 1, 1, tzinfo=UTC), (), max_batch, state)


def test_a_batch_needs_free_first_dimensions() -> None:
    _check_batch(identity(8), (FREE,))
    _check_batch(identity(), (FREE, FIXED))
    for other in (FIXED, SCALAR):
        with pytest.raises(RequestError, match=f"that of '{other.name}' is not"):
            _check_batch(identity(8), (FREE, other))


def test_a_state_is_an_input_and_an_output() -> None:
    _check_states(identity(None, ("x", "y")), (FREE,), (FIXED,))
    for pair in (("y", "x"), ("x", "z")):
        with pytest.raises(RequestError, match="its inputs and outputs are x, y"):
            _check_states(identity(None, pair), (FREE,), (FIXED,))
