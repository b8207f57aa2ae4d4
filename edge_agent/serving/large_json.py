"""Requests and answers with large JSON, read and written on another thread while the event loop goes on."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final, cast, get_args

import msgspec
from numpy.typing import NDArray

from edge_agent.documents.errors import EdgeAgentError, RequestError
from edge_agent.documents.tensors import Datatype, TensorSpec
from edge_agent.serving import json_tensors, oip
from edge_agent.serving.calls import Answer, unwritable
from edge_agent.serving.http_messages import Reply, Request
from edge_agent.serving.json_pieces import KINDS, LARGE_BYTES, LARGE_COUNT
from edge_agent.serving.workers import Workers

_PAUSE_S: Final = 20e-6
"""Long enough for the loop's thread to take Python's lock, where it waits for it; else that takes 5 ms."""

_DATATYPES: Final = frozenset(get_args(Datatype))

Then = Callable[[oip.Unbound | Exception], None]
ThenSend = Callable[[oip.Rendered | EdgeAgentError], None]


def is_large(request: Request, header_length: bytes | None) -> bool:
    """Say whether so much of the body is JSON that it is not to be read on the event loop's thread."""
    size_bytes = len(request.body)
    if size_bytes >= LARGE_BYTES and header_length is not None and header_length.isdigit():
        size_bytes = int(header_length[:18])
    return size_bytes >= LARGE_BYTES


def is_large_answer(answer: Answer) -> bool:
    """Say whether so much of an answer is JSON that it is not to be written on the event loop's thread.

    Only where it is all numbers, of which it can be told at once whether JSON carries them.
    """
    count = 0
    for name, delivery in answer.request.outputs.items():
        if delivery.region is not None or delivery.classes:
            return False
        if not delivery.is_binary:
            tensor = answer.results[name]
            if tensor.dtype.kind not in KINDS:
                return False
            count += tensor.size
    return count >= LARGE_COUNT


class LargeJson:
    """Reads and writes one after the other. For the event loop's thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._workers = Workers(1, "json")

    def read(self, request: Request, header_length: bytes | None, reply: Reply, then: Then) -> None:
        """Call `then` later with what `oip.read` makes of it, its large tensors decoded; or with why not.

        It is not called if the client has gone before the request's turn comes.
        """
        self._workers.submit(self._read, (request, header_length, reply, then))

    def write(self, answer: Answer, reply: Reply, then: ThenSend) -> None:
        """Call `then` later with what `oip.render` makes of a large answer, or with why it fails.

        Raises RequestError at once where JSON cannot carry a number. It is not called if the client has gone
        before the answer's turn comes.
        """
        for name, delivery in answer.request.outputs.items():
            if not delivery.is_binary:
                json_tensors.check_finite(answer.results[name], name)
        self._workers.submit(self._write, (answer, reply, then))

    def _read(self, work: tuple[Request, bytes | None, Reply, Then]) -> None:
        request, header_length, reply, then = work
        if reply.is_abandoned:
            return
        try:
            unbound = decoded(oip.read(request.body, header_length), _pause)
        # Whatever it is, this thread must go on, and the client hear of it.
        except Exception as error:
            self._loop.call_soon_threadsafe(then, error)
        else:
            self._loop.call_soon_threadsafe(then, unbound)

    def _write(self, work: tuple[Answer, Reply, ThenSend]) -> None:
        answer, reply, then = work
        if reply.is_abandoned:
            return
        written: oip.Rendered | EdgeAgentError
        try:
            written = oip.render(answer, pause=_pause)
        # Whatever it is, this thread must go on, and the client hear of it.
        except Exception as error:
            written = unwritable(error)
        self._loop.call_soon_threadsafe(then, written)


def decoded(unbound: oip.Unbound, pause: Callable[[], None]) -> oip.Unbound:
    """Return the request with its large inputs in JSON decoded; calls `pause` now and then.

    What is wrong with them is told when the request is bound, in its place among what else may be wrong.
    """
    tensors: dict[str, NDArray[Any] | RequestError] = {}
    for given in unbound.infer.inputs:
        shape = tuple(given.shape)
        is_large = memoryview(given.data).nbytes >= LARGE_BYTES
        # Else it will be refused for its description.
        if is_large and given.datatype in _DATATYPES and (not shape or min(shape) >= 1):
            spec = TensorSpec(given.name, cast(Datatype, given.datatype), shape)
            try:
                tensors[given.name] = json_tensors.decode(given.data, spec, shape, pause)
            except RequestError as error:
                tensors[given.name] = error
    return msgspec.structs.replace(unbound, tensors=tensors)


def _pause() -> None:
    time.sleep(_PAUSE_S)
