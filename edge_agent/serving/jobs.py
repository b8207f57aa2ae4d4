"""A job: one run of a model that the scheduler is asked for."""

from collections.abc import Sequence
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
    """What a run took, in nanoseconds, by the parts of Triton's statistics; `rows` were run together."""

    queue_ns: int = 0
    input_ns: int = 0
    infer_ns: int = 0
    output_ns: int = 0
    rows: int = 1


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
    queued_ns: int = 0
    """Set by the scheduler."""

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
