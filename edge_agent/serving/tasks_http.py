"""Requests that are answered later, by HTTP: `Prefer: respond-async`, and the paths of tasks.

    POST …/infer                202, Location: /v2/tasks/<id>
    GET /v2/tasks/<id>          what has become of it
    GET /v2/tasks/<id>/result   the answer, as it would have been at once; 202 before there is one
    DELETE /v2/tasks/<id>       cancel it, or forget its result

A task is a call like any other, and takes the same way: only its reply goes to the store instead of a
connection. Source for the header: RFC 7240.
"""

import asyncio
import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from edge_agent.documents.errors import NotFoundError, TooLateError
from edge_agent.documents.settings import TaskSettings
from edge_agent.serving import preferences
from edge_agent.serving.http_messages import Reply, Request, Response, error_response, failure
from edge_agent.serving.tasks import Event, State, Task, TaskStore

if TYPE_CHECKING:
    from edge_agent.serving.inference import Inference

PREFIX: Final = "/v2/tasks/"
MAX_WAIT_S: Final = 60
"""The longest time that a request for a result waits for it."""

Infer = Callable[[Request, Reply], "Inference | None"]
"""Answer a request, now or later; raises EdgeAgentError for what cannot be begun."""


class _TaskReply:
    """Takes the answer of a task for its store."""

    __slots__ = ("_store", "_task", "is_abandoned")

    def __init__(self, store: TaskStore, task: Task) -> None:
        self._store = store
        self._task = task
        self.is_abandoned = False

    def send(self, response: Response) -> None:
        """Keep the answer, unless the task was cancelled."""
        self._store.finish(self._task, response)

    def peer_uid(self) -> int | None:
        """Return the user who has asked, None over TCP."""
        return self._task.uid


class _Begun(msgspec.Struct, eq=False):
    """A task that is pending; `inference` is None while it waits for others of its sequence."""

    reply: _TaskReply
    inference: "Inference | None"


class _Wait(msgspec.Struct, eq=False):
    """A request that waits for a task's result."""

    task: Task
    reply: Reply
    timer: asyncio.TimerHandle | None = None


class Tasks:
    """The tasks of the HTTP server. `withdraw` hears of inferences that may be unwanted by now."""

    def __init__(self, settings: TaskSettings, withdraw: "Callable[[Inference], None]") -> None:
        self.store = TaskStore(
            settings, secrets.token_hex(8), lambda: secrets.token_hex(16), time.time, self._note_end
        )
        self._withdraw = withdraw
        self._loop = asyncio.get_running_loop()
        self._begun: dict[Task, _Begun] = {}
        self._waits: dict[Task, list[_Wait]] = {}
        self._is_stopping = False

    def begin(self, request: Request, reply: Reply, infer: Infer) -> None:
        """Make a task of a request; raises EdgeAgentError for one that cannot be begun, as without a task."""
        task = self.store.add(reply.peer_uid(), len(request.body))
        answering = _TaskReply(self.store, task)
        try:
            # Without its raw bytes, which must never be answered from memory as if it were a plain request.
            inference = infer(msgspec.structs.replace(request, raw=None), answering)
        except BaseException:
            self.store.drop(task)
            raise
        if task.is_pending:
            self._begun[task] = _Begun(answering, inference)
        headers = (("Location", PREFIX + task.id), ("Preference-Applied", preferences.RESPOND_ASYNC))
        reply.send(_json(202, {"task_id": task.id, "status": self._state(task)}, headers))

    def answer(self, request: Request, reply: Reply) -> None:
        """Answer a request to the path of a task; raises RequestError."""
        task_id, _, rest = request.path.removeprefix(PREFIX).rstrip("/").partition("/")
        if rest not in ("", "result"):
            raise NotFoundError(f"There is nothing at {request.path}; a task has a status and a result.")
        allowed = ("GET", "HEAD") if rest else ("GET", "HEAD", "DELETE")
        if request.method not in allowed:
            names = ", ".join(allowed)
            reply.send(error_response(405, f"{request.path} answers {names} only.", (("Allow", names),)))
            return
        task = self.store.find(task_id, reply.peer_uid())
        if rest:
            self._send_result(task, request, reply)
        elif request.method == "DELETE":
            self._remove(task)
            reply.send(_json(200, self._described(task)))
        else:
            reply.send(_json(200, self._described(task)))

    def stop(self) -> None:
        """Let nobody wait any longer: the server stops, and its tasks are lost."""
        self._is_stopping = True
        for task in tuple(self._waits):
            self._end_waits(task)

    def _send_result(self, task: Task, request: Request, reply: Reply) -> None:
        header = request.headers.get(b"prefer")
        wait_s = 0 if header is None or self._is_stopping else min(preferences.wait_s(header), MAX_WAIT_S)
        if not task.is_pending or not wait_s:
            reply.send(self._result(task))
            return
        wait = _Wait(task, reply)
        wait.timer = self._loop.call_later(wait_s, self._stop_wait, wait)
        self._waits.setdefault(task, []).append(wait)

    def _stop_wait(self, wait: _Wait) -> None:
        """Answer a request that has waited for as long as it wanted."""
        waits = self._waits[wait.task]
        waits.remove(wait)
        if not waits:
            del self._waits[wait.task]
        self._answer_wait(wait)

    def _end_waits(self, task: Task) -> None:
        """Answer all requests that wait for a task."""
        for wait in self._waits.pop(task, ()):
            if wait.timer is not None:
                wait.timer.cancel()
            self._answer_wait(wait)

    def _answer_wait(self, wait: _Wait) -> None:
        if not wait.reply.is_abandoned:
            wait.reply.send(self._result(wait.task))

    def _note_end(self, task: Task) -> None:
        self._begun.pop(task, None)
        self._end_waits(task)

    def _result(self, task: Task) -> Response:
        if task.is_pending:
            return _json(202, self._described(task), (("Retry-After", "1"),))
        if task.result is None:
            return failure(TooLateError(f"The task is {task.state}, nothing is kept of it; send it again."))
        return task.result

    def _remove(self, task: Task) -> None:
        begun = self._begun.get(task)
        if begun is not None:
            begun.reply.is_abandoned = True
        self.store.remove(task)
        if begun is not None and begun.inference is not None:
            self._withdraw(begun.inference)

    def _state(self, task: Task) -> State:
        """Return the task's state, which is seen to be running when somebody looks."""
        begun = self._begun.get(task)
        inference = None if begun is None else begun.inference
        if task.state is State.QUEUED and inference is not None and not _waits_in_queue(inference):
            task.happen(Event.START)
        return task.state

    def _described(self, task: Task) -> dict[str, Any]:
        times = {
            "created_s": task.created_s,
            "finished_s": task.finished_s,
            "expires_s": task.expires_s,
        }
        known = {name: round(value, 3) for name, value in times.items() if value is not None}
        return {"task_id": task.id, "status": self._state(task), **known}


def _waits_in_queue(inference: "Inference") -> bool:
    return any(waiting is inference for waiting in inference.loaded.queue)


def _json(status: int, content: Any, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    return Response(status, (msgspec.json.encode(content),), headers=headers)
