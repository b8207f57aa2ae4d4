"""Tasks: requests whose answers are fetched later."""

import math
import time
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar

import msgspec
from numpy.typing import NDArray

from edge_agent.client.calls import InferResult, decoded, infer_call, read_result
from edge_agent.client.connections import TIMEOUT_S
from edge_agent.client.wire import Call, Reply, late, request_bytes

T = TypeVar("T")

_LONGEST_WAIT_S: Final = 30


class _Do(Protocol):
    def __call__(self, call: Call[T], timeout_s: float | None = None) -> T: ...


class _DoAsync(Protocol):
    def __call__(self, call: Call[T], timeout_s: float | None = None) -> Awaitable[T]: ...


class _Told(msgspec.Struct):
    task_id: str
    status: str


class Task:
    """A request that the agent answers later; raises NotFoundError, or TooLateError, once it is forgotten."""

    def __init__(self, do: _Do, task_id: str) -> None:
        self._do = do
        self.id = task_id

    def status(self) -> str:
        """Return `pending`, `done`, `failed` or `cancelled`."""
        return self._do(_status_call("GET", self.id))

    def result(self, timeout_s: float = TIMEOUT_S) -> InferResult:
        """Return the answer as soon as it is there; raises the error that it is, or DeadlineExceededError."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            wait_s = _wait_s(deadline_s)
            result = self._do(_result_call(self.id, wait_s), wait_s + TIMEOUT_S)
            if result is not None:
                return result
            if time.monotonic() >= deadline_s:
                raise late(timeout_s)

    def cancel(self) -> None:
        """Have it not run if it has not begun, and forget it if it has ended."""
        self._do(_status_call("DELETE", self.id))


class AsyncTask:
    """The same for asyncio; see `Task`."""

    def __init__(self, do: _DoAsync, task_id: str) -> None:
        self._do = do
        self.id = task_id

    async def status(self) -> str:
        """Return `pending`, `done`, `failed` or `cancelled`."""
        return await self._do(_status_call("GET", self.id))

    async def result(self, timeout_s: float = TIMEOUT_S) -> InferResult:
        """Return the answer as soon as it is there; see `Task.result`."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            wait_s = _wait_s(deadline_s)
            result = await self._do(_result_call(self.id, wait_s), wait_s + TIMEOUT_S)
            if result is not None:
                return result
            if time.monotonic() >= deadline_s:
                raise late(timeout_s)

    async def cancel(self) -> None:
        """Have it not run if it has not begun, and forget it if it has ended."""
        await self._do(_status_call("DELETE", self.id))


def submit_call(
    model: str,
    version: str | None,
    inputs: Mapping[str, NDArray[Any]],
    outputs: Sequence[str] | None,
    parameters: Mapping[str, Any] | None,
) -> Call[str]:
    """Return the call that makes a task of a request; it returns the task's id."""
    head = "Prefer: respond-async\r\n"
    call = infer_call(model, version, inputs, outputs, parameters, None, head=head)
    return Call(call.request, lambda reply: decoded(reply, _Told, status=202).task_id)


def _status_call(method: str, task_id: str) -> Call[str]:
    request = request_bytes(method, f"/v2/tasks/{task_id}")
    return Call(request, lambda reply: decoded(reply, _Told).status)


def _result_call(task_id: str, wait_s: int) -> Call[InferResult | None]:
    def read(reply: Reply) -> InferResult | None:
        return None if reply.status == 202 else read_result(reply)

    return Call(request_bytes("GET", f"/v2/tasks/{task_id}/result", f"Prefer: wait={wait_s}\r\n"), read)


def _wait_s(deadline_s: float) -> int:
    return max(0, min(_LONGEST_WAIT_S, math.ceil(deadline_s - time.monotonic())))
