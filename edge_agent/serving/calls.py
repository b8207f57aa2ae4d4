"""A call: one inference request on its way, whichever protocol it came by.

A front end (`http_infer`, `grpc`) makes a call of what it has received; the pipeline has it bound to the model
that is to answer it, and gives it the answer or the error. For the event loop's thread.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec
from numpy.typing import NDArray

from edge_agent.documents.errors import EdgeAgentError, ModelLoadError
from edge_agent.documents.tensors import TensorSpec

if TYPE_CHECKING:
    from edge_agent.serving.memo import Hit

Results = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Signature:
    """The inputs and outputs of a model, by name, in its order; and the names of its classes, if it has any.

    Outputs that are `hidden` are given only to who asks for them by name.
    """

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    labels: tuple[str, ...] = ()
    hidden: frozenset[str] = frozenset()

    @property
    def shown(self) -> Iterable[str]:
        """The names of the outputs that are not hidden."""
        return [name for name in self.outputs if name not in self.hidden] if self.hidden else self.outputs


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """How an output is to be sent; `classes` above 0 asks for the best that many, by value, index and label."""

    is_binary: bool = False
    classes: int = 0
    region: str | None = None
    """The shared memory that it goes to instead of the answer, from `offset` on, `size_bytes` at most."""
    offset: int = 0
    size_bytes: int = 0


IN_JSON: Final = Delivery()
IN_BINARY: Final = Delivery(is_binary=True)


class InferRequest(msgspec.Struct, frozen=True, gc=False):
    """A request whose tensors fit the model; `outputs` are those wanted, and how each is to be sent."""

    id: str | None
    parameters: dict[str, Any]
    inputs: dict[str, NDArray[Any]]
    outputs: dict[str, Delivery]
    is_cacheable: bool = True
    """False where an input came in memory that others may change at any time."""


class Answer(msgspec.Struct, frozen=True, gc=False):
    """What a request is answered with; `parameters` are those of the answer."""

    request: InferRequest
    model: str
    version: str
    signature: Signature
    results: Results
    parameters: Mapping[str, str]


class Call(Protocol):
    """One request, until it is answered: by exactly one of `answer` and `fail`."""

    started_ns: int
    """When its last byte had come, by `time.perf_counter_ns`."""

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The parameters of the request as a whole."""
        ...

    @property
    def unit(self) -> bytes | None:
        """The unit that was given beside the request, by a header."""
        ...

    @property
    def is_abandoned(self) -> bool:
        """Whether nobody waits for the answer any more."""
        ...

    def peer_uid(self) -> int | None:
        """Return the user who asks, as the kernel knows it; None over TCP."""
        ...

    def bind(self, signature: Signature, state_inputs: frozenset[str]) -> InferRequest:
        """Return the request to a model with this signature; raises RequestError where it does not fit.

        `state_inputs` are those that the caller must not give, because the agent has them.
        """
        ...

    def answer(self, answer: Answer) -> None:
        """Send the answer, now or soon; raises RequestError, and sends nothing, where it cannot be as asked."""
        ...

    def note_hit(self, hit: "Hit") -> None:
        """Hear, after the answer, that it came from the cache: a front end may remember its request."""
        ...

    def fail(self, error: EdgeAgentError) -> None:
        """Send the error."""
        ...


def unwritable(error: Exception) -> ModelLoadError:
    """Return what to say where writing an answer fails: a plug-in's results that are none, or no memory."""
    return ModelLoadError(f"The answer cannot be written: {type(error).__name__}: {error}.")
