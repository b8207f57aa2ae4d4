"""Which of the requests that wait are run together: what Triton Inference Server calls dynamic batching.

Source: its docs/user_guide/batcher.md, "Dynamic Batcher". Pure.
"""

import math
from dataclasses import dataclass
from typing import Final

from edge_agent.documents.plan import BatchingPlan, VersionPlan
from edge_agent.serving.calls import Signature
from edge_agent.serving.jobs import Job, JobQueue


@dataclass(frozen=True, slots=True)
class Batching:
    """How a version's waiting jobs are run together; `max_size` counts rows, and 1 is never."""

    max_size: int = 1
    max_delay_ns: int = 0
    preferred: tuple[int, ...] = ()


NEVER: Final = Batching()


def batch_limit(plan: VersionPlan, signature: Signature) -> int:
    """Return the most rows that one run takes; 0 if the first dimension is not known to be a batch."""
    specs = [*signature.inputs.values(), *signature.outputs.values()]
    is_free = all(spec.shape and spec.shape[0] == -1 for spec in specs)
    return plan.max_batch if is_free and not plan.state else 0


def batching(policy: BatchingPlan, limit: int) -> Batching:
    """Return how a version with this batch limit is batched; never where the limit is not known."""
    max_size = min(policy.max_size, limit)
    if max_size < 2:
        return NEVER
    preferred = tuple(sorted(size for size in policy.preferred if size <= max_size))
    return Batching(max_size, policy.max_delay_us * 1000, preferred)


@dataclass(frozen=True, slots=True)
class Decision:
    """Run the first `count` jobs now; or, if that is 0, decide again at `wait_until_ns`."""

    count: int
    wait_until_ns: int = 0


def decide(queue: JobQueue, policy: Batching, now_ns: int, run_ns: float) -> Decision:
    """Return which of the jobs that wait are to run together, when a worker is free; there is at least one.

    They are the longest row of jobs from the front that fit each other and the limit. It is complete when no
    more can join it, or when it has a preferred size; else it waits until the oldest has waited long enough, or
    until a deadline would pass with a run of `run_ns`.
    """
    jobs = iter(queue)
    head = next(jobs)
    if policy.max_size < 2 or not head.rows:
        return Decision(1)
    count, rows, at_preferred = 1, head.rows, 0
    due_ns = _due_ns(head, policy, run_ns)
    is_closed = rows >= policy.max_size
    if rows in policy.preferred:
        at_preferred = 1
    for job in jobs:
        if is_closed or rows + job.rows > policy.max_size or not _fits(job, head):
            is_closed = True
            break
        count, rows = count + 1, rows + job.rows
        due_ns = min(due_ns, _due_ns(job, policy, run_ns))
        if rows in policy.preferred:
            at_preferred = count
        is_closed = rows == policy.max_size
    if at_preferred:
        return Decision(at_preferred)
    if is_closed or now_ns >= due_ns:
        return Decision(count)
    return Decision(0, due_ns)


def _due_ns(job: Job, policy: Batching, run_ns: float) -> int:
    due_ns = job.queued_ns + policy.max_delay_ns
    if job.deadline_ns is None:
        return due_ns
    return min(due_ns, job.deadline_ns - (0 if math.isinf(run_ns) else int(2 * run_ns)))


def _fits(job: Job, head: Job) -> bool:
    """Say whether two jobs may be one run: the same outputs, and inputs that differ in their rows alone."""
    return (
        job.rows > 0
        and job.wanted == head.wanted
        and all(tensor.shape[1:] == head.inputs[name].shape[1:] for name, tensor in job.inputs.items())
    )
