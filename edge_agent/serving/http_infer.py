"""Inference requests that come by HTTP."""

from collections.abc import Mapping
from time import perf_counter_ns
from typing import Any

from edge_agent.documents.binary_tensors import HEADER_LENGTH
from edge_agent.documents.errors import EdgeAgentError
from edge_agent.serving import oip
from edge_agent.serving.calls import Answer, InferRequest, Signature
from edge_agent.serving.http_messages import Reply, Request, Response, failure

_HEADER_LENGTH = HEADER_LENGTH.lower().encode()
_UNIT = b"edge-unit"


class HttpCall:
    """One request to `…/infer`; see `calls.Call`. Raises RequestError for a body that is none."""

    __slots__ = ("_reply", "_unbound", "started_ns", "unit")

    def __init__(self, request: Request, reply: Reply) -> None:
        self.started_ns = perf_counter_ns()
        self._reply = reply
        self.unit = request.headers.get(_UNIT)
        self._unbound = oip.read(request.body, request.headers.get(_HEADER_LENGTH))

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The parameters of the request as a whole."""
        return self._unbound.parameters

    @property
    def is_abandoned(self) -> bool:
        """Whether the client has gone."""
        return self._reply.is_abandoned

    def bind(self, signature: Signature, state_inputs: frozenset[str]) -> InferRequest:
        """Return the request to a model with this signature; raises RequestError where it does not fit."""
        return oip.bind(self._unbound, signature, state_inputs)

    def answer(self, answer: Answer) -> None:
        """Send the answer; raises RequestError where it cannot be sent as it was asked for."""
        body, header_length = oip.render(answer)
        if header_length is None:
            self._reply.send(Response(200, body))
        else:
            headers = ((HEADER_LENGTH, str(header_length)),)
            self._reply.send(Response(200, body, "application/octet-stream", headers))

    def fail(self, error: EdgeAgentError) -> None:
        """Send the error."""
        self._reply.send(failure(error))
