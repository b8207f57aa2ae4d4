"""Inference requests that come by HTTP."""

from collections.abc import Mapping
from functools import partial
from time import perf_counter_ns
from typing import Any

from edge_agent.documents.binary_tensors import HEADER_LENGTH
from edge_agent.documents.errors import EdgeAgentError
from edge_agent.serving import oip
from edge_agent.serving.calls import Answer, InferRequest, Signature
from edge_agent.serving.codec import Codec
from edge_agent.serving.encodings import SMALLEST_BYTES
from edge_agent.serving.http_messages import Reply, Request, Response, failure, render_head
from edge_agent.serving.large_json import LargeJson, is_large_answer
from edge_agent.serving.memo import Hit, Memo, Written
from edge_agent.serving.shared_memory import RegionAccess, Regions

_HEADER_LENGTH = HEADER_LENGTH.lower().encode()
_UNIT = b"edge-unit"


def header_length(request: Request) -> bytes | None:
    """Return the header that says how much of the body is JSON, if it is there."""
    return request.headers.get(_HEADER_LENGTH)


class HttpCall:
    """One request to `…/infer`; see `calls.Call`. Raises RequestError for a body that is none.

    `unbound` is what `oip.read` has made of it, and `started_ns` when it came, where that was done before.
    """

    __slots__ = (
        "_accepted",
        "_answer",
        "_codec",
        "_hit",
        "_large",
        "_memo",
        "_memory",
        "_raw",
        "_reply",
        "_response",
        "_unbound",
        "started_ns",
        "unit",
    )

    def __init__(
        self,
        request: Request,
        reply: Reply,
        memo: Memo | None = None,
        codec: Codec | None = None,
        regions: Regions | None = None,
        large: LargeJson | None = None,
        unbound: oip.Unbound | None = None,
        started_ns: int = 0,
    ) -> None:
        self.started_ns = started_ns or perf_counter_ns()
        self._memory: RegionAccess | None = None
        if regions is not None and regions.is_enabled:
            self._memory = RegionAccess(regions, reply.peer_uid, reply.reserve)
        self._codec = codec
        self._large = large
        self._accepted = request.headers.get(b"accept-encoding")
        self._memo = memo
        self._raw = request.raw
        self._answer: Answer | None = None
        self._response: Response | None = None
        self._hit: Hit | None = None
        self._reply = reply
        self.unit = request.headers.get(_UNIT)
        self._unbound = (
            oip.read(request.body, request.headers.get(_HEADER_LENGTH)) if unbound is None else unbound
        )

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The parameters of the request as a whole."""
        return self._unbound.parameters

    @property
    def is_abandoned(self) -> bool:
        """Whether the client has gone."""
        return self._reply.is_abandoned

    def peer_uid(self) -> int | None:
        """Return the user at the other end, None over TCP."""
        return self._reply.peer_uid()

    def bind(self, signature: Signature, state_inputs: frozenset[str]) -> InferRequest:
        """Return the request to a model with this signature; raises RequestError where it does not fit."""
        return oip.bind(self._unbound, signature, state_inputs, self._memory)

    def answer(self, answer: Answer) -> None:
        """Send the answer, a large one soon; raises RequestError where it cannot be sent as asked for."""
        if self._large is not None and is_large_answer(answer):
            self._large.write(answer, self._reply, partial(self._send_written, answer))
        else:
            self._send(answer, oip.render(answer, self._memory))

    def _send_written(self, answer: Answer, written: oip.Rendered | EdgeAgentError) -> None:
        """Send an answer that was written on another thread, and remember it if that was wanted meanwhile."""
        if isinstance(written, EdgeAgentError):
            self.fail(written)
            return
        self._send(answer, written)
        if self._hit is not None:
            self.note_hit(self._hit)

    def _send(self, answer: Answer, rendered: oip.Rendered) -> None:
        body, header_length = rendered
        if header_length is None:
            response = Response(200, body)
        else:
            headers = ((HEADER_LENGTH, str(header_length)),)
            response = Response(200, body, "application/octet-stream", headers)
        self._answer, self._response = answer, response
        if self._accepted is None or self._codec is None:
            self._reply.send(response)
        else:
            self._codec.send(self._reply, response, self._accepted)

    def note_hit(self, hit: Hit) -> None:
        """Remember the request by its bytes, if it came in one piece and the answer is nothing but bytes."""
        answer, response = self._answer, self._response
        if answer is None or response is None:
            self._hit = hit
            return
        if self._memo is None or self._raw is None:
            return
        prediction_id = answer.parameters["prediction_id"].encode()
        body = b"".join(response.body)
        if self._accepted is not None and len(body) >= SMALLEST_BYTES:
            return
        before, found, after = body.partition(prediction_id)
        is_pure = all(delivery.region is None for delivery in answer.request.outputs.values())
        if found and prediction_id not in after and is_pure:
            head = render_head(response, False, False)
            known = Response(response.status, (), response.content_type, response.headers, head)
            self._memo.learn(self._raw, hit, Written(hit.remembered, known, before, after))

    def fail(self, error: EdgeAgentError) -> None:
        """Send the error."""
        self._reply.send(failure(error))
