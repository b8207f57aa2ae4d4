"""How `edge-agent serve` is told what a signed manifest and deployment would say of a model."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Final

from edge_agent.cli.model_files import Served
from edge_agent.documents.errors import RequestError
from edge_agent.documents.plan import BatchingPlan, ModelPlan, StatePair, VersionPlan

_BATCH: Final = re.compile(r"(\d{1,5})(?::(\d{1,7}))?")


def with_states(served: Sequence[Served], states: Sequence[str]) -> list[Served]:
    """Return the models with the states that they have, each given as `INPUT=OUTPUT`.

    Raises RequestError for one that no model has.
    """
    pairs = [_pair(text) for text in states]
    for pair in pairs:
        if not any(_has(model.plan, pair) for model in served):
            raise RequestError(f"No model has the state '{pair.input}={pair.output}' of --state.")
    return [
        dataclasses.replace(
            model,
            plan=dataclasses.replace(model.plan, state=tuple(pair for pair in pairs if _has(model.plan, pair))),
        )
        for model in served
    ]


def with_batching(served: Sequence[Served], batch: str | None) -> tuple[list[Served], tuple[ModelPlan, ...]]:
    """Return the models with their batch limit, and how they are batched, as `SIZE[:DELAY_US]` says.

    A model with a fixed first dimension is left as it is; raises RequestError if all are, or for another text.
    """
    if batch is None:
        return list(served), ()
    match = _BATCH.fullmatch(batch)
    if match is None or int(match[1]) < 2:
        raise RequestError(f"--batch takes SIZE or SIZE:DELAY_US with a size from 2, not '{batch}'.")
    size, delay_us = int(match[1]), int(match[2] or 0)
    fit = [model.plan.model for model in served if _is_free(model.plan)]
    if not fit:
        raise RequestError("--batch is for models whose inputs and outputs all have a free first dimension.")
    limited = [
        dataclasses.replace(model, plan=dataclasses.replace(model.plan, max_batch=size))
        if model.plan.model in fit
        else model
        for model in served
    ]
    return limited, tuple(ModelPlan(name, batching=BatchingPlan(size, delay_us)) for name in fit)


def _pair(text: str) -> StatePair:
    before, _, after = text.partition("=")
    if not before or not after:
        raise RequestError(f"--state takes INPUT=OUTPUT, not '{text}'.")
    return StatePair(before, after)


def _has(plan: VersionPlan, pair: StatePair) -> bool:
    inputs, outputs = {spec.name for spec in plan.inputs}, {spec.name for spec in plan.outputs}
    return pair.input in inputs and pair.output in outputs


def _is_free(plan: VersionPlan) -> bool:
    return all(spec.shape and spec.shape[0] == -1 for spec in (*plan.inputs, *plan.outputs))
