"""An inference: a request on its way through the pipeline."""

import asyncio
from typing import TYPE_CHECKING

import numpy as np

from edge_agent.documents.errors import RequestError
from edge_agent.serving.cache import Remembered
from edge_agent.serving.calls import Call, InferRequest
from edge_agent.serving.jobs import FIRST, NORMAL, Job, Result, Times
from edge_agent.serving.parameters import natural
from edge_agent.serving.router import Choice
from edge_agent.serving.sequences import Turn
from edge_agent.telemetry.counters import VersionCounters

if TYPE_CHECKING:
    from edge_agent.serving.pipeline import Pipeline


class Inference(Job, eq=False, kw_only=True):
    """A request on its way. `key` is what its result is remembered by, None where it bypasses the cache;
    `followers` are equal requests that wait for its run."""

    pipeline: "Pipeline"
    choice: Choice
    counters: VersionCounters
    request: InferRequest
    call: Call
    key: bytes | None
    followers: "list[Inference]"
    bound_ns: int = 0
    """What it took to make arrays of its inputs."""
    remembered: Remembered | None = None
    """What the cache has answered it with."""
    turn: Turn | None = None
    """Its turn in the sequence that it belongs to, if it does."""
    lookup_ns: int = 0
    """What it took to look its result up."""
    timer: asyncio.TimerHandle | None = None
    is_answered: bool = False

    @property
    def is_awaited(self) -> bool:
        """Whether its own client still waits."""
        return not self.is_answered and not self.call.is_abandoned

    @property
    def is_wanted(self) -> bool:
        """Whether its client, or that of a follower, still waits."""
        return self.is_awaited or any(follower.is_awaited for follower in self.followers)

    def is_complete(self, result: Result) -> bool:
        """Say whether a result, which is a plug-in's and may be anything, has all outputs and only tensors."""
        return (
            isinstance(result, dict)
            and result.keys() >= set(self.wanted)
            and all(isinstance(tensor, np.ndarray) for tensor in result.values())
        )

    def finish(self, result: Result, times: Times) -> None:
        """Answer."""
        self.pipeline.finish(self, result, times)

    def drop(self) -> None:
        """Forget it."""
        self.pipeline.drop(self)


def rows_of(request: InferRequest) -> int:
    """Return the first dimension that all inputs have, 0 if they differ in it."""
    sizes = {tensor.shape[0] for tensor in request.inputs.values()}
    return sizes.pop() if len(sizes) == 1 else 0


def priority_of(request: InferRequest) -> int:
    """Return the request's priority; raises RequestError for one that there is not."""
    if "priority" not in request.parameters:
        return NORMAL
    priority = natural(request.parameters, "priority", 0) or NORMAL
    if priority not in (FIRST, NORMAL):
        raise RequestError(f"The parameter priority must be {FIRST}, {NORMAL} or 0, not {priority}.")
    return priority


def with_state(request: InferRequest, choice: Choice) -> list[str]:
    """Return the outputs that a request wants, and those that are its sequence's state."""
    states = (pair.output for pair in choice.loaded.plan.state)
    return list(dict.fromkeys((*request.outputs, *states)))
