"""A job: one run of a model that the scheduler is asked for; and the jobs that wait."""

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import msgspec
from numpy.typing import NDArray

from edge_agent.documents.errors import EdgeAgentError
from edge_agent.serving.calls import Results

if TYPE_CHECKING:
    from edge_agent.serving.loader import LoadedVersion

Result = Results | EdgeAgentError

FIRST: Final = 1
NORMAL: Final = 2
"""The priorities, as Triton counts them: 1 goes before 2, which is the default."""


class Times(msgspec.Struct, frozen=True, gc=False):
    """What a run took, in nanoseconds, by the parts of Triton's statistics."""

    queue_ns: int = 0
    input_ns: int = 0
    infer_ns: int = 0
    output_ns: int = 0
    rows: int = 1
    """How many were run together."""
    executions: int = 1
    """1 for one of the jobs that were run together, 0 for the others: the sum is how often the model ran."""


class Job(msgspec.Struct, eq=False, kw_only=True):
    """One run that is wanted; a subclass says what becomes of it. For the event loop's thread alone."""

    loaded: "LoadedVersion"
    inputs: dict[str, NDArray[Any]]
    wanted: Sequence[str]
    """Names of the outputs."""
    size_bytes: int
    """Size of the inputs."""
    rows: int = 0
    """The first dimension of all inputs where the job may be run together with others, else 0."""
    priority: int = NORMAL
    deadline_ns: int | None = None
    """When nobody will want it any more, by `time.perf_counter_ns`."""
    queued_ns: int = 0
    """Set by the scheduler."""
    asked_s: float = 0.0
    """When its version was last asked for, by the event loop's clock; set by the scheduler's keeper."""
    part: "Job | None" = None
    """The slice of it that waits or runs, where it is run in slices."""

    @property
    def is_wanted(self) -> bool:
        """Whether anybody still waits for it; asked when its turn has come."""
        raise NotImplementedError

    def finish(self, result: Result, times: Times) -> None:
        """Take the result, or the error, of the run."""
        raise NotImplementedError

    def drop(self) -> None:
        """Hear that it was not run, as nobody wanted it."""
        raise NotImplementedError


class JobQueue:
    """The jobs that wait for one version: in order of priority, then of arrival."""

    __slots__ = ("_first", "_normal")

    def __init__(self) -> None:
        self._first: deque[Job] = deque()
        self._normal: deque[Job] = deque()

    def __len__(self) -> int:
        return len(self._first) + len(self._normal)

    def __iter__(self) -> Iterator[Job]:
        return chain(self._first, self._normal)

    def append(self, job: Job) -> None:
        """Have a job wait behind those of its priority."""
        (self._first if job.priority == FIRST else self._normal).append(job)

    def popleft(self) -> Job:
        """Take the job whose turn it is."""
        return (self._first or self._normal).popleft()

    def remove(self, job: Job) -> bool:
        """Take out one job; say whether it was there."""
        queue = self._first if job.priority == FIRST else self._normal
        for index, waiting in enumerate(queue):
            if waiting is job:
                del queue[index]
                return True
        return False
