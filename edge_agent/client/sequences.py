"""Sequences: requests to a streaming model, whose state the agent keeps between them."""

import secrets
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from edge_agent.client.calls import InferResult

if TYPE_CHECKING:
    from edge_agent.client.aio import AsyncClient
    from edge_agent.client.sync import Client

Inputs = Mapping[str, NDArray[Any]] | NDArray[Any]


class _Place:
    """Where in its sequence a request is. A number that nobody else has chosen is the sequence's id."""

    def __init__(self) -> None:
        self.id = secrets.randbits(63) or 1
        self._has_begun = False

    def parameters(self, given: Mapping[str, Any] | None, end: bool) -> dict[str, Any]:
        """Return the parameters of the next request, the last one if `end`."""
        place = {"sequence_id": self.id, "sequence_start": not self._has_begun, "sequence_end": end}
        return {**(given or {}), **place}

    def note_answer(self, end: bool) -> None:
        """Hear that it was answered with a result: one that fails changes nothing, and may be sent again."""
        self._has_begun = not end


class InferSequence:
    """One sequence; its requests are to be sent one after the other. After its end it begins anew."""

    def __init__(self, client: "Client", model: str, version: str | None) -> None:
        self._client = client
        self._model = model
        self._version = version
        self._place = _Place()

    @property
    def id(self) -> int:
        """The sequence's id."""
        return self._place.id

    def infer(
        self,
        inputs: Inputs,
        outputs: Sequence[str] | None = None,
        parameters: Mapping[str, Any] | None = None,
        *,
        end: bool = False,
        timeout_s: float | None = None,
    ) -> InferResult:
        """Run the model on the next inputs, without its state; with `end` the agent forgets that afterwards.

        Raises RequestError when the agent has forgotten it, by an update, a restart or a long silence.
        """
        parameters = self._place.parameters(parameters, end)
        result = self._client.infer(
            self._model, inputs, self._version, outputs, parameters, timeout_s=timeout_s
        )
        self._place.note_answer(end)
        return result


class AsyncInferSequence:
    """The same for asyncio; see `InferSequence`."""

    def __init__(self, client: "AsyncClient", model: str, version: str | None) -> None:
        self._client = client
        self._model = model
        self._version = version
        self._place = _Place()

    @property
    def id(self) -> int:
        """The sequence's id."""
        return self._place.id

    async def infer(
        self,
        inputs: Inputs,
        outputs: Sequence[str] | None = None,
        parameters: Mapping[str, Any] | None = None,
        *,
        end: bool = False,
        timeout_s: float | None = None,
    ) -> InferResult:
        """Run the model on the next inputs; see `InferSequence.infer`."""
        parameters = self._place.parameters(parameters, end)
        result = await self._client.infer(
            self._model, inputs, self._version, outputs, parameters, timeout_s=timeout_s
        )
        self._place.note_answer(end)
        return result
