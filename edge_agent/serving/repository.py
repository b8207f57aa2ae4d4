"""Loading and unloading of models on request: it is the supervisor that does so, this is the way there.

Source: Triton Inference Server, protocol/extension_model_repository.md.
"""

import asyncio
from collections.abc import Callable
from itertools import count
from typing import Final

import msgspec

from edge_agent.documents.errors import EdgeAgentError, RequestError, UnavailableError
from edge_agent.documents.ipc import ChangeModel, ModelChanged
from edge_agent.serving.http_messages import Reply, Response, error_response, failure

_LIMIT: Final = 16
"""Changes that may be under way at a time."""
_TIMEOUT_S: Final = 120.0


class _Body(msgspec.Struct):
    parameters: dict[str, msgspec.Raw] = {}


class Repository:
    """Hands changes to the supervisor with `tell`, and answers those who asked for them."""

    def __init__(self, tell: Callable[[ChangeModel], None]) -> None:
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._ids = count(1)
        self._pending: dict[int, tuple[Reply, asyncio.TimerHandle]] = {}

    def change(self, model: str, load: bool, body: bytes, actor: str, reply: Reply) -> None:
        """Have a model loaded or unloaded; raises RequestError for what cannot be asked."""
        _check(body)
        if len(self._pending) >= _LIMIT:
            raise UnavailableError(f"{_LIMIT} changes of models are under way already; try again later.")
        number = next(self._ids)
        late = UnavailableError(f"Model '{model}' was not changed within {_TIMEOUT_S:g} s; look at its state.")
        timer = self._loop.call_later(_TIMEOUT_S, self._answer, number, failure(late))
        self._pending[number] = (reply, timer)
        self._tell(ChangeModel(id=number, model=model, load=load, actor=actor))

    def settle(self, changed: ModelChanged) -> None:
        """Answer who has asked for a change that was made or refused."""
        error = changed.error
        self._answer(changed.id, error_response(changed.status, error) if error else Response(200, (b"{}",)))

    def stop(self) -> None:
        """Answer all who wait, as nobody will be told any more."""
        error: EdgeAgentError = UnavailableError("The server is stopping; try again, the next one answers.")
        for number in tuple(self._pending):
            self._answer(number, failure(error))

    def _answer(self, number: int, response: Response) -> None:
        reply, timer = self._pending.pop(number, (None, None))
        if reply is not None and timer is not None:
            timer.cancel()
            reply.send(response)


def _check(body: bytes) -> None:
    """Refuse what would have something else run than the signed documents say."""
    if not body.strip():
        return
    try:
        parameters = msgspec.json.decode(body, type=_Body).parameters
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RequestError(f"The body is no object with parameters: {str(error).rstrip('.')}.") from error
    refused = [name for name in parameters if name == "config" or name.startswith("file:")]
    if refused:
        raise RequestError(
            f"The parameter {refused[0]} is not taken: what is served comes from signed documents alone."
        )
