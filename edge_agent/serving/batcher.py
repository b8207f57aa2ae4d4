"""Running jobs of one version, alone or as a batch. For a worker's thread."""

import logging
from collections.abc import Sequence
from time import perf_counter_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.documents.errors import EdgeAgentError
from edge_agent.serving.batches import NEVER
from edge_agent.serving.jobs import Job, Result, Times
from edge_agent.serving.loader import LoadedVersion

log = logging.getLogger(__name__)

Outcome = tuple[Job, Result, Times]


def run_together(loaded: LoadedVersion, jobs: Sequence[Job]) -> list[Outcome]:
    """Run jobs that fit each other as one batch, and give each its rows.

    If the run fails they are run one by one, so that only the one at fault gets the error. A version that fails
    on a batch alone, or whose outputs are not its rows, is batched no more. Results are views of the batch's
    outputs, which live as long as any of them is being sent.
    """
    started_ns = perf_counter_ns()
    rows = sum(job.rows for job in jobs)
    try:
        inputs = {name: np.concatenate([job.inputs[name] for job in jobs]) for name in jobs[0].inputs}
    except MemoryError:
        return [run_alone(loaded, job) for job in jobs]
    joined_ns = perf_counter_ns()
    result, infer_ns = loaded.run(inputs, jobs[0].wanted)
    ran_ns = perf_counter_ns()
    if isinstance(result, EdgeAgentError):
        outcomes = [run_alone(loaded, job) for job in jobs]
        if not any(isinstance(alone, EdgeAgentError) for _, alone, _ in outcomes):
            _end_batching(loaded, f"fails on a batch of {rows} ({result}), not on its requests")
        return outcomes
    if not _has_rows(result, rows):
        _end_batching(loaded, "gives outputs that are not rows of its batch")
        return [run_alone(loaded, job) for job in jobs]
    parts = _split(result, jobs)
    output_ns = perf_counter_ns() - ran_ns
    return [
        (
            job,
            part,
            Times(
                started_ns - job.queued_ns, joined_ns - started_ns, infer_ns, output_ns, rows, int(index == 0)
            ),
        )
        for index, (job, part) in enumerate(zip(jobs, parts, strict=True))
    ]


def run_alone(loaded: LoadedVersion, job: Job) -> Outcome:
    """Run one job."""
    queue_ns = perf_counter_ns() - job.queued_ns
    result, infer_ns = loaded.run(job.inputs, job.wanted)
    return job, result, Times(queue_ns=queue_ns, infer_ns=infer_ns, rows=max(job.rows, 1))


def _has_rows(result: Any, rows: int) -> bool:
    """Say whether a result, which is a plug-in's and may be anything, is arrays of so many rows."""
    return isinstance(result, dict) and all(
        isinstance(tensor, np.ndarray) and tensor.shape[:1] == (rows,) for tensor in result.values()
    )


def _end_batching(loaded: LoadedVersion, why: str) -> None:
    """Call the first dimension of a version no batch any more, until it is loaded anew."""
    if loaded.batch_limit:
        loaded.batch_limit, loaded.batching = 0, NEVER
        log.warning(
            "Model '%s' %s %s; its requests run alone from now on.", loaded.plan.model, loaded.plan.version, why
        )


def _split(result: dict[str, NDArray[Any]], jobs: Sequence[Job]) -> list[dict[str, NDArray[Any]]]:
    parts, first = [], 0
    for job in jobs:
        parts.append({name: tensor[first : first + job.rows] for name, tensor in result.items()})
        first += job.rows
    return parts
