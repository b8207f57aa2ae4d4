"""The client for threads."""

import socket
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from numpy.typing import NDArray

from edge_agent.client.calls import (
    InferResult,
    ModelEntry,
    ModelMetadata,
    OutcomesResult,
    index_call,
    infer_call,
    metadata_call,
    outcome_call,
    outcomes_call,
    ready_call,
    with_timeout,
)
from edge_agent.client.connections import CHUNK_BYTES, TIMEOUT_S, ClosedError, may_repeat
from edge_agent.client.memory import Memory, Region, is_unknown_region, register_call, unregister_call
from edge_agent.client.sequences import InferSequence
from edge_agent.client.tasks import Task, submit_call
from edge_agent.client.wire import Call, Exchange, Reply, broken, find_address, late, unreachable
from edge_agent.documents.errors import EdgeAgentError, NotFoundError, RequestError

T = TypeVar("T")
Inputs = Mapping[str, NDArray[Any]] | NDArray[Any]


class Client:
    """A client for threads: each call takes a connection of its own from a pool.

    `where` is the path of a Unix socket or `http://HOST:PORT`; without it, this host's agent is found. Every
    call raises the errors of `edge_agent.documents.errors`: RequestError and NotFoundError for what the caller
    must change, UnavailableError, with `retry_after_s`, for what time repairs.
    """

    def __init__(self, where: str | Path | None = None, *, timeout_s: float = TIMEOUT_S) -> None:
        self._address = find_address(where)
        self._timeout_s = timeout_s
        self._idle: deque[socket.socket] = deque()
        self._only_inputs: dict[tuple[str, str | None], str] = {}
        self._memory = Memory(is_local=self._address.path is not None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the idle connections, and remove the shared memory that large arrays went by."""
        for region in self._memory.close():
            with suppress(EdgeAgentError):
                self._do(unregister_call(region.name), 1.0)
        while self._idle:
            self._idle.pop().close()

    def infer(
        self,
        model: str,
        inputs: Inputs,
        version: str | None = None,
        outputs: Sequence[str] | None = None,
        parameters: Mapping[str, Any] | None = None,
        *,
        request_id: str | None = None,
        timeout_s: float | None = None,
    ) -> InferResult:
        """Run a model once on arrays by input name, or on one array if it has one input.

        Without a version the agent chooses one; without outputs all are returned. With `timeout_s` the agent is
        told, too, so that it does not begin what nobody waits for any more. Large arrays go by shared memory
        where the agent takes it.
        """
        if not isinstance(inputs, Mapping):
            inputs = {self._only_input(model, version): inputs}
        parameters = with_timeout(parameters, timeout_s)
        region = self._memory.lend(inputs)
        if region is not None:
            try:
                result = self._infer_in(
                    region, model, version, inputs, outputs, parameters, request_id, timeout_s
                )
            finally:
                self._memory.give_back(region)
            if result is not None:
                return result
        call = infer_call(model, version, inputs, outputs, parameters, request_id)
        return self._do(call, timeout_s)

    def submit(
        self,
        model: str,
        inputs: Inputs,
        version: str | None = None,
        outputs: Sequence[str] | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> "Task":
        """Have a model run once, and fetch the answer later."""
        if not isinstance(inputs, Mapping):
            inputs = {self._only_input(model, version): inputs}
        return Task(self._do, self._do(submit_call(model, version, inputs, outputs, parameters)))

    def sequence(self, model: str, version: str | None = None) -> "InferSequence":
        """Begin a sequence: requests to a streaming model, whose state the agent keeps between them."""
        return InferSequence(self, model, version)

    def _infer_in(
        self,
        region: Region,
        model: str,
        version: str | None,
        inputs: Mapping[str, NDArray[Any]],
        outputs: Sequence[str] | None,
        parameters: Mapping[str, Any] | None,
        request_id: str | None,
        timeout_s: float | None,
    ) -> InferResult | None:
        """Run a model with its large inputs in a region; None where the agent takes no region."""
        places = region.place(inputs)
        call = infer_call(model, version, inputs, outputs, parameters, request_id, places)
        for _ in range(2):
            try:
                if not region.is_registered:
                    self._do(register_call(region.name, region.key, region.size_bytes))
                    region.is_registered = True
            except RequestError:
                self._memory.switch_off()
                return None
            try:
                return self._do(call, timeout_s)
            except NotFoundError as error:
                if not is_unknown_region(error):
                    raise
                region.is_registered = False  # the agent has been started again
        return None

    def outcome(self, model: str, prediction_id: str, /, **values: float) -> None:
        """Tell what came of a prediction, by metric; when this returns it is on the agent's disk.

        Raises DuplicateError if this was told before, TooLateError if the prediction is too old. After an
        UnavailableError the outcome may have been taken or not: tell it again, it is counted once.
        """
        self._do(outcome_call(model, prediction_id, values))

    def outcomes(self, model: str, outcomes: Iterable[tuple[str, Mapping[str, float]]]) -> OutcomesResult:
        """Tell up to 10,000 outcomes, prediction id and values each; what was refused is in the result."""
        return self._do(outcomes_call(model, outcomes))

    def metadata(self, model: str, version: str | None = None) -> ModelMetadata:
        """Return a model's versions, inputs, outputs and labels."""
        return self._do(metadata_call(model, version))

    def ready(self, model: str | None = None, version: str | None = None) -> bool:
        """Say whether the agent, or a model, can answer requests; UnavailableError if there is no agent."""
        return self._do(ready_call(model, version))

    def models(self) -> tuple[ModelEntry, ...]:
        """Return the versions that are served."""
        return self._do(index_call())

    def _only_input(self, model: str, version: str | None) -> str:
        key = (model, version)
        if key not in self._only_inputs:
            self._only_inputs[key] = self.metadata(model, version).only_input()
        return self._only_inputs[key]

    def _do(self, call: Call[T], timeout_s: float | None = None) -> T:
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        try:
            return call.read(self._exchange(call.request, time.monotonic() + timeout_s))
        except TimeoutError as error:
            raise late(timeout_s) from error
        except ClosedError as error:
            raise broken(self._address) from error
        except OSError as error:
            raise unreachable(self._address, error) from error

    def _exchange(self, request: bytes, deadline_s: float) -> Reply:
        """Send a request on an idle connection that still stands, else on a new one; return the answer."""
        while (connection := self._take_idle()) is not None:
            try:
                return self._exchange_on(connection, request, deadline_s)
            except ClosedError as error:
                if not may_repeat(self._address, error):
                    raise
        return self._exchange_on(self._connect(deadline_s), request, deadline_s)

    def _take_idle(self) -> socket.socket | None:
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _connect(self, deadline_s: float) -> socket.socket:
        address = self._address
        if address.path is None:
            connection = socket.create_connection((address.host, address.port), _remaining(deadline_s))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connection
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(_remaining(deadline_s))
            connection.connect(address.path)
        except BaseException:
            connection.close()
            raise
        return connection

    def _exchange_on(self, connection: socket.socket, request: bytes, deadline_s: float) -> Reply:
        try:
            reply = _talk(connection, request, deadline_s)
        except BaseException:
            connection.close()
            raise
        if reply.keep_alive:
            self._idle.append(connection)
        else:
            connection.close()
        return reply


def _talk(connection: socket.socket, request: bytes, deadline_s: float) -> Reply:
    was_sent = True
    connection.settimeout(_remaining(deadline_s))
    try:
        connection.sendall(request)
    except ConnectionError:
        # The server may have refused, and said why, before it has read everything.
        was_sent = False
    exchange = Exchange()
    while True:
        connection.settimeout(_remaining(deadline_s))
        try:
            data = connection.recv(CHUNK_BYTES)
        except ConnectionError as error:
            raise ClosedError(was_sent) from error
        if not data:
            raise ClosedError(was_sent)
        if (reply := exchange.feed(data)) is not None:
            return reply


def _remaining(deadline_s: float) -> float:
    remaining_s = deadline_s - time.monotonic()
    if remaining_s <= 0:
        raise TimeoutError
    return remaining_s
