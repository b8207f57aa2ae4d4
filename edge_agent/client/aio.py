"""The client for asyncio."""

import asyncio
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
from edge_agent.client.sequences import AsyncInferSequence
from edge_agent.client.tasks import AsyncTask, submit_call
from edge_agent.client.wire import Call, Exchange, Reply, broken, find_address, late, unreachable
from edge_agent.documents.errors import EdgeAgentError, NotFoundError, RequestError

T = TypeVar("T")
Inputs = Mapping[str, NDArray[Any]] | NDArray[Any]


class AsyncClient:
    """The same for asyncio; `async with`, and every call is a coroutine. For one event loop."""

    def __init__(self, where: str | Path | None = None, *, timeout_s: float = TIMEOUT_S) -> None:
        self._address = find_address(where)
        self._timeout_s = timeout_s
        self._idle: deque[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = deque()
        self._only_inputs: dict[tuple[str, str | None], str] = {}
        self._memory = Memory(is_local=self._address.path is not None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the idle connections, and remove the shared memory that large arrays went by."""
        for region in self._memory.close():
            with suppress(EdgeAgentError):
                await self._do(unregister_call(region.name), 1.0)
        while self._idle:
            await _close(self._idle.pop()[1])

    async def infer(
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
        """Run a model once; see `Client.infer`."""
        if not isinstance(inputs, Mapping):
            inputs = {await self._only_input(model, version): inputs}
        parameters = with_timeout(parameters, timeout_s)
        region = self._memory.lend(inputs)
        if region is not None:
            try:
                result = await self._infer_in(
                    region, model, version, inputs, outputs, parameters, request_id, timeout_s
                )
            finally:
                self._memory.give_back(region)
            if result is not None:
                return result
        call = infer_call(model, version, inputs, outputs, parameters, request_id)
        return await self._do(call, timeout_s)

    async def submit(
        self,
        model: str,
        inputs: Inputs,
        version: str | None = None,
        outputs: Sequence[str] | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> "AsyncTask":
        """Have a model run once, and fetch the answer later; see `Client.submit`."""
        if not isinstance(inputs, Mapping):
            inputs = {await self._only_input(model, version): inputs}
        return AsyncTask(self._do, await self._do(submit_call(model, version, inputs, outputs, parameters)))

    def sequence(self, model: str, version: str | None = None) -> "AsyncInferSequence":
        """Begin a sequence: requests to a streaming model, whose state the agent keeps between them."""
        return AsyncInferSequence(self, model, version)

    async def _infer_in(
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
                    await self._do(register_call(region.name, region.key, region.size_bytes))
                    region.is_registered = True
            except RequestError:
                self._memory.switch_off()
                return None
            try:
                return await self._do(call, timeout_s)
            except NotFoundError as error:
                if not is_unknown_region(error):
                    raise
                region.is_registered = False  # the agent has been started again
        return None

    async def outcome(self, model: str, prediction_id: str, /, **values: float) -> None:
        """Tell what came of a prediction; see `Client.outcome`."""
        await self._do(outcome_call(model, prediction_id, values))

    async def outcomes(self, model: str, outcomes: Iterable[tuple[str, Mapping[str, float]]]) -> OutcomesResult:
        """Tell many outcomes; see `Client.outcomes`."""
        return await self._do(outcomes_call(model, outcomes))

    async def metadata(self, model: str, version: str | None = None) -> ModelMetadata:
        """Return a model's versions, inputs, outputs and labels."""
        return await self._do(metadata_call(model, version))

    async def ready(self, model: str | None = None, version: str | None = None) -> bool:
        """Say whether the agent, or a model, can answer requests; UnavailableError if there is no agent."""
        return await self._do(ready_call(model, version))

    async def models(self) -> tuple[ModelEntry, ...]:
        """Return the versions that are served."""
        return await self._do(index_call())

    async def _only_input(self, model: str, version: str | None) -> str:
        key = (model, version)
        if key not in self._only_inputs:
            self._only_inputs[key] = (await self.metadata(model, version)).only_input()
        return self._only_inputs[key]

    async def _do(self, call: Call[T], timeout_s: float | None = None) -> T:
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                return call.read(await self._exchange(call.request))
        except TimeoutError as error:
            raise late(timeout_s) from error
        except ClosedError as error:
            raise broken(self._address) from error
        except OSError as error:
            raise unreachable(self._address, error) from error

    async def _exchange(self, request: bytes) -> Reply:
        while self._idle:
            try:
                return await self._exchange_on(*self._idle.pop(), request)
            except ClosedError as error:
                if not may_repeat(self._address, error):
                    raise
        address = self._address
        if address.path is None:
            streams = await asyncio.open_connection(address.host, address.port)
        else:
            streams = await asyncio.open_unix_connection(address.path)
        return await self._exchange_on(*streams, request)

    async def _exchange_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
    ) -> Reply:
        try:
            reply = await _talk_async(reader, writer, request)
        except BaseException:
            writer.transport.abort()
            raise
        if reply.keep_alive:
            self._idle.append((reader, writer))
        else:
            await _close(writer)
        return reply


async def _talk_async(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> Reply:
    was_sent = True
    try:
        writer.write(request)
        await writer.drain()
    except ConnectionError:
        was_sent = False
    exchange = Exchange()
    while True:
        try:
            data = await reader.read(CHUNK_BYTES)
        except ConnectionError as error:
            raise ClosedError(was_sent) from error
        if not data:
            raise ClosedError(was_sent)
        if (reply := exchange.feed(data)) is not None:
            return reply


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    try:
        await writer.wait_closed()
    except OSError:
        return
