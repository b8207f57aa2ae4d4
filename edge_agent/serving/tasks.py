"""Tasks: requests that are answered later. What there is of them, within bounds, until it expires.

| status      | when                                                          | goes on to                    |
|-------------|---------------------------------------------------------------|-------------------------------|
| `pending`   | the request waits or runs                                     | `done`, `failed`, `cancelled` |
| `done`      | the answer is kept, for `tasks.keep_s`                        | gone                          |
| `failed`    | the error is kept, as long                                    | gone                          |
| `cancelled` | a client has cancelled it; what waited for its turn never runs | gone                         |

Nothing of it outlives the process. For the event loop's thread.
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from edge_agent.documents.errors import NotFoundError, TooLateError, UnavailableError
from edge_agent.documents.settings import TaskSettings
from edge_agent.serving.http_messages import Reply, Response, failure

if TYPE_CHECKING:
    from edge_agent.serving.inference import Inference

Status = Literal["pending", "done", "failed", "cancelled"]

_TASK_BYTES: Final = 1000
"""What a task takes beside its request and its answer."""
_RUN_CHARACTERS: Final = 8
_ID_CHARACTERS: Final = 40
_HEX: Final = frozenset("0123456789abcdef")


class Wait(msgspec.Struct, eq=False):
    """A client that waits for the end of a task, and what it hears if that does not come in time."""

    reply: Reply
    otherwise: Response
    timer: asyncio.TimerHandle | None = None


class Task:
    """One request that is answered later; it is also the `Reply` that the request's call sends to."""

    __slots__ = (
        "_tasks",
        "created_s",
        "ended_s",
        "expiry",
        "id",
        "inference",
        "response",
        "size_bytes",
        "status",
        "uid",
        "waiting",
    )

    def __init__(self, tasks: "Tasks", number: str, uid: int | None, size_bytes: int) -> None:
        self._tasks = tasks
        self.id = number
        self.uid = uid
        self.size_bytes = size_bytes
        self.inference: Inference | None = None
        """Its run, if that is known."""
        self.status: Status = "pending"
        self.response: Response | None = None
        self.created_s = time.time()
        self.ended_s: float | None = None
        self.expiry: asyncio.TimerHandle | None = None
        """What forgets it, once it has ended."""
        self.waiting: list[Wait] = []
        """Clients that wait for the end."""

    @property
    def is_abandoned(self) -> bool:
        """Whether nobody wants the answer any more."""
        return self.status == "cancelled"

    def peer_uid(self) -> int | None:
        """Return the user who sent the request."""
        return self.uid

    def reserve(self, size_bytes: int) -> bool:
        """Count what the request has become beside its body, as the task's; say whether there is room."""
        return self._tasks.grow(self, size_bytes)

    def send(self, response: Response) -> None:
        """Keep the answer."""
        self._tasks.end(self, response)

    def to_builtins(self) -> dict[str, Any]:
        """Return what a client is told of it; times are Unix time."""
        told = {"task_id": self.id, "status": self.status, "created_s": round(self.created_s, 3)}
        return told if self.ended_s is None else told | {"ended_s": round(self.ended_s, 3)}


class Tasks:
    """All tasks, bounded in number and bytes, of which one user (None over TCP) has half at most.

    `withdraw` hears of inferences that nobody may want any more.
    """

    def __init__(self, settings: TaskSettings, withdraw: "Callable[[Inference], None]") -> None:
        self._settings = settings
        self._withdraw = withdraw
        self._loop = asyncio.get_running_loop()
        # Ids tell the runs of the server apart, and are not to be guessed.
        self._run = secrets.token_hex(_RUN_CHARACTERS // 2)
        self._tasks: dict[str, Task] = {}
        self._is_stopping = False
        self.bytes = 0

    def create(self, uid: int | None, size_bytes: int) -> Task:
        """Return a new task for a request of this size; raises UnavailableError where there are too many."""
        size_bytes += _TASK_BYTES
        if not self._make_room(uid, 1, size_bytes):
            own = [task.size_bytes for task in self._tasks.values() if task.uid == uid]
            raise UnavailableError(
                f"{len(self._tasks)} tasks of {self.bytes} bytes, of which {len(own)} of {sum(own)} bytes are "
                "yours, leave no room for another; fetch and delete results, or try again later."
            )
        number = self._run + secrets.token_hex((_ID_CHARACTERS - _RUN_CHARACTERS) // 2)
        task = self._tasks[number] = Task(self, number, uid, size_bytes)
        self.bytes += size_bytes
        return task

    def find(self, number: str, uid: int | None) -> Task:
        """Return a task of this user; raises NotFoundError, or TooLateError for one of an earlier run."""
        task = self._tasks.get(number)
        if task is not None and task.uid == uid:
            return task
        if len(number) == _ID_CHARACTERS and set(number) <= _HEX and not number.startswith(self._run):
            raise TooLateError(
                f"Task '{number}' is of an earlier run of the server and ended with it; send it again."
            )
        raise NotFoundError(
            f"There is no task '{number}' of yours; results are kept for {self._settings.keep_s:g} s."
        )

    def grow(self, task: Task, size_bytes: int) -> bool:
        """Count more bytes of a pending task's request; say whether there is room, and count none if not."""
        has_room = self._make_room(task.uid, 0, size_bytes)
        if has_room:
            self._resize(task, task.size_bytes + size_bytes)
        return has_room

    def end(self, task: Task, response: Response) -> None:
        """Keep an answer, and give it to those who wait for it."""
        if task.id not in self._tasks or task.status != "pending":
            return
        # The request's body is not needed any more; the answer's is copied, as it may be part of a larger one.
        body = b"".join(response.body)
        self._resize(task, _TASK_BYTES + len(body))
        task.response = Response(response.status, (body,), response.content_type, response.headers)
        task.status = "done" if response.status < 400 else "failed"
        if not self._make_room(task.uid, 0, 0, but=task):
            error = UnavailableError(
                "The answer is larger than tasks.max_bytes has room for, of which one user may have half; "
                "ask without respond-async."
            )
            task.response, task.status = failure(error), "failed"
            self._resize(task, _TASK_BYTES)
        self._conclude(task)

    def cancel(self, task: Task) -> None:
        """End a pending task, so that it will not run if it has not begun; forget one that has ended."""
        if task.status != "pending":
            self.remove(task)
            return
        task.status = "cancelled"
        task.response = failure(TooLateError(f"Task '{task.id}' was cancelled."))
        self._resize(task, _TASK_BYTES)
        inference = task.inference
        self._conclude(task)
        if inference is not None:
            self._withdraw(inference)

    def remove(self, task: Task) -> None:
        """Forget a task."""
        if self._tasks.pop(task.id, None) is not None:
            self.bytes -= task.size_bytes
        if task.expiry is not None:
            task.expiry.cancel()

    def wait(self, task: Task, reply: Reply, wait_s: float, otherwise: Response) -> None:
        """Answer with the task's answer once there is one, or with `otherwise` after so many seconds."""
        wait = Wait(reply, otherwise)
        wait.timer = self._loop.call_later(0.0 if self._is_stopping else wait_s, self._give_up, task, wait)
        task.waiting.append(wait)

    def stop(self) -> None:
        """Let nobody wait any longer, as the server stops and its tasks end with it."""
        self._is_stopping = True
        for task in self._tasks.values():
            for wait in tuple(task.waiting):
                self._give_up(task, wait)

    def _give_up(self, task: Task, wait: Wait) -> None:
        task.waiting.remove(wait)
        _answer(wait, wait.otherwise)

    def _conclude(self, task: Task) -> None:
        task.ended_s, task.inference = time.time(), None
        assert task.response is not None
        waiting, task.waiting = task.waiting, []
        for wait in waiting:
            _answer(wait, task.response)
        task.expiry = self._loop.call_later(self._settings.keep_s, self.remove, task)

    def _resize(self, task: Task, size_bytes: int) -> None:
        self.bytes += size_bytes - task.size_bytes
        task.size_bytes = size_bytes

    def _make_room(self, uid: int | None, count: int, size_bytes: int, but: Task | None = None) -> bool:
        """Forget what has ended longest ago, as far as so many tasks and bytes more of a user need that.

        It is the user's own where he would have more than half, else anybody's. Where even all of it would not
        be enough, forget nothing and say so.
        """
        limits, everybody = self._settings, self._tasks.values()
        kept = [task for task in everybody if task.uid == uid]
        over = len(kept) + count - _half(limits.max_count)
        over_bytes = sum(task.size_bytes for task in kept) + size_bytes - _half(limits.max_bytes)
        ended = sorted(
            (task for task in everybody if task.ended_s is not None and task is not but),
            key=lambda task: task.ended_s or 0.0,
        )
        own = _first([task for task in ended if task.uid == uid], over, over_bytes)
        if own is None:
            return False
        over = len(everybody) - len(own) + count - limits.max_count
        over_bytes = self.bytes - sum(task.size_bytes for task in own) + size_bytes - limits.max_bytes
        others = _first([task for task in ended if task not in own], over, over_bytes)
        if others is None:
            return False
        for task in (*own, *others):
            self.remove(task)
        return True


def _first(tasks: Sequence[Task], count: int, size_bytes: int) -> list[Task] | None:
    """Return as many of the first tasks as have this number and size together; None if all are too few."""
    taken = []
    for task in tasks:
        if count <= 0 and size_bytes <= 0:
            break
        taken.append(task)
        count, size_bytes = count - 1, size_bytes - task.size_bytes
    return taken if count <= 0 and size_bytes <= 0 else None


def _half(limit: int) -> int:
    return -(-limit // 2)


def _answer(wait: Wait, response: Response) -> None:
    if wait.timer is not None:
        wait.timer.cancel()
    wait.reply.send(response)
