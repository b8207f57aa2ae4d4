"""Inference requests that come by gRPC."""

import asyncio
from collections.abc import Mapping
from time import perf_counter_ns
from typing import Any

from edge_agent.documents.errors import EdgeAgentError
from edge_agent.serving import oip
from edge_agent.serving.calls import Answer, InferRequest, Signature
from edge_agent.serving.memo import Hit
from edge_agent.serving.rpc import codec
from edge_agent.serving.rpc.messages import ModelInferRequest, ModelInferResponse
from edge_agent.serving.shared_memory import RegionAccess


class GrpcCall:
    """One inference; see `calls.Call`. Raises RequestError for parameters that are none.

    `answered` is done with the response or the error; who cancels it waits no more.
    """

    __slots__ = ("_memory", "_parameters", "_request", "answered", "started_ns", "unit")

    def __init__(
        self,
        request: ModelInferRequest,
        unit: bytes | None,
        answered: asyncio.Future[ModelInferResponse | EdgeAgentError],
        memory: RegionAccess | None = None,
    ) -> None:
        self.started_ns = perf_counter_ns()
        self.unit = unit
        self.answered = answered
        self._request = request
        self._memory = memory
        self._parameters = codec.parameters_of(request.parameters)

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The parameters of the request as a whole."""
        return self._parameters

    @property
    def is_abandoned(self) -> bool:
        """Whether the client has cancelled it or its time is over."""
        return self.answered.cancelled()

    def peer_uid(self) -> int | None:
        """Return None: gRPC does not tell who asks."""
        return None

    def bind(self, signature: Signature, state_inputs: frozenset[str]) -> InferRequest:
        """Return the request to a model with this signature; raises RequestError where it does not fit."""
        unbound = codec.unbound(self._request, self._parameters, signature)
        return oip.bind(unbound, signature, state_inputs, self._memory)

    def answer(self, answer: Answer) -> None:
        """Hand over the answer; raises RequestError where it cannot be sent as it was asked for."""
        response = codec.render(answer, self._memory)
        if not self.answered.done():
            self.answered.set_result(response)

    def note_hit(self, hit: Hit) -> None:
        """Remember nothing: requests are known by their bytes over HTTP alone."""

    def fail(self, error: EdgeAgentError) -> None:
        """Hand over the error."""
        if not self.answered.done():
            self.answered.set_result(error)
