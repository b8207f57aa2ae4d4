"""Tasks: requests that are answered later, whose clients come back for the result.

Which there are, what became of each, and for how long that is told; nothing here runs anything. A task's id
begins with the run of the server, so that one from before a restart is told from one that never was; the rest
is 128 random bits. For the event loop's thread.
"""

import re
from collections import OrderedDict
from collections.abc import Callable
from enum import StrEnum
from typing import Final

import msgspec

from edge_agent.documents.errors import NotFoundError, TooLateError, UnavailableError
from edge_agent.documents.settings import TaskSettings
from edge_agent.serving.http_messages import Response, failure

_ID: Final = re.compile(r"([0-9a-f]{16})-[0-9a-f]{32}")
_OK: Final = 200
_OVERHEAD_BYTES: Final = 2048
"""What a task takes beside its request and its result."""


class State(StrEnum):
    """What has become of a task."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class Event(StrEnum):
    """What happens to a task."""

    START = "start"
    SUCCEED = "succeed"
    FAIL = "fail"
    CANCEL = "cancel"
    EXPIRE = "expire"


TRANSITIONS: Final[dict[State, dict[Event, State]]] = {
    State.QUEUED: {
        Event.START: State.RUNNING,
        Event.SUCCEED: State.DONE,
        Event.FAIL: State.FAILED,
        Event.CANCEL: State.CANCELLED,
    },
    State.RUNNING: {
        Event.SUCCEED: State.DONE,
        Event.FAIL: State.FAILED,
        Event.CANCEL: State.CANCELLED,
    },
    State.DONE: {Event.EXPIRE: State.EXPIRED},
    State.FAILED: {Event.EXPIRE: State.EXPIRED},
    State.CANCELLED: {},
    State.EXPIRED: {},
}
"""What each event makes of a task in each state; one that is not listed changes nothing."""

PENDING: Final = frozenset({State.QUEUED, State.RUNNING})


class Task(msgspec.Struct, eq=False):
    """A task. Times are seconds since 1970; `expires_s` is when its result is forgotten."""

    id: str
    uid: int | None
    """The user who has asked, None over TCP: nobody else gets to see it."""
    size_bytes: int
    created_s: float
    state: State = State.QUEUED
    finished_s: float | None = None
    expires_s: float | None = None
    result: Response | None = None

    @property
    def is_pending(self) -> bool:
        """Whether it has no result yet and is going to have one."""
        return self.state in PENDING

    def happen(self, event: Event) -> bool:
        """Change its state by an event; say whether that changed anything."""
        state = TRANSITIONS[self.state].get(event)
        if state is not None:
            self.state = state
        return state is not None


class TaskStore:
    """All tasks, bounded in number and bytes.

    `run` is 16 hexadecimal digits that only this run of the server has, `token` returns 32 random ones; `clock`
    returns seconds since 1970. `ended` is told of each task when it is pending no more.
    """

    def __init__(
        self,
        settings: TaskSettings,
        run: str,
        token: Callable[[], str],
        clock: Callable[[], float],
        ended: Callable[[Task], None],
    ) -> None:
        self._settings = settings
        self._run = run
        self._token = token
        self._clock = clock
        self._tell = ended
        self._pending: dict[str, Task] = {}
        self._finished: OrderedDict[str, Task] = OrderedDict()
        """In the order in which they expire."""
        self._ended: OrderedDict[str, Task] = OrderedDict()
        """Cancelled and expired ones, of which nothing is left but that; the oldest go first."""
        self.size_bytes = 0

    def __len__(self) -> int:
        """How many count against the limit."""
        return len(self._pending) + len(self._finished)

    def add(self, uid: int | None, request_bytes: int) -> Task:
        """Make a task of a request of this size; raises UnavailableError where there is no room for it."""
        self.sweep()
        size_bytes = request_bytes + _OVERHEAD_BYTES
        limits = self._settings
        if len(self) >= limits.max_count or self.size_bytes + size_bytes > limits.max_bytes:
            raise UnavailableError(
                f"{len(self)} tasks with {self.size_bytes} bytes of requests and results are kept; fetch and "
                "delete some, try again later, or raise tasks.max_count or tasks.max_bytes.",
                self._retry_after_s(),
            )
        task = Task(f"{self._run}-{self._token()}", uid, size_bytes, self._clock())
        self._pending[task.id] = task
        self.size_bytes += size_bytes
        return task

    def drop(self, task: Task) -> None:
        """Forget a task that was not begun after all."""
        self._remove(task)

    def finish(self, task: Task, response: Response) -> None:
        """Take the answer of a task, if it is pending still; without room for it the task has failed."""
        if not task.is_pending:
            return
        self._remove(task)
        size_bytes = _OVERHEAD_BYTES + _response_bytes(response)
        if self.size_bytes + size_bytes > self._settings.max_bytes:
            # A sentence has room, or takes what the next task will not get.
            response = failure(_too_large(size_bytes, self._settings.max_bytes - self.size_bytes))
            size_bytes = _OVERHEAD_BYTES
        task.happen(Event.SUCCEED if response.status == _OK else Event.FAIL)
        task.size_bytes, task.result, task.finished_s = size_bytes, response, self._clock()
        task.expires_s = task.finished_s + self._settings.keep_s
        self.size_bytes += size_bytes
        self._finished[task.id] = task
        self._tell(task)

    def find(self, task_id: str, uid: int | None) -> Task:
        """Return a user's task; raises NotFoundError where there is none, TooLateError if it was lost."""
        self.sweep()
        for tasks in (self._pending, self._finished, self._ended):
            task = tasks.get(task_id)
            if task is not None and task.uid == uid:
                return task
        parts = _ID.fullmatch(task_id)
        if parts is not None and parts[1] != self._run:
            raise TooLateError(
                "This task belongs to an earlier run of the server, whose tasks are lost; "
                "send the request again."
            )
        raise NotFoundError(
            "There is no such task of yours: it was deleted, or ended long ago, or never was; "
            "send the request again."
        )

    def remove(self, task: Task) -> None:
        """Cancel a pending task; forget one that has ended."""
        if task.is_pending:
            self._remove(task)
            task.happen(Event.CANCEL)
            self._note_end(task)
            self._tell(task)
        else:
            self._remove(task)

    def sweep(self) -> None:
        """Forget results whose time is over."""
        now_s = self._clock()
        while self._finished:
            task = next(iter(self._finished.values()))
            if task.expires_s is None or task.expires_s > now_s:
                break
            self._remove(task)
            task.happen(Event.EXPIRE)
            self._note_end(task)

    def _remove(self, task: Task) -> None:
        for tasks in (self._pending, self._finished):
            if tasks.pop(task.id, None) is not None:
                self.size_bytes -= task.size_bytes
        self._ended.pop(task.id, None)

    def _note_end(self, task: Task) -> None:
        task.result, task.size_bytes = None, 0
        if task.finished_s is None:
            task.finished_s = self._clock()
        self._ended[task.id] = task
        while len(self._ended) > self._settings.max_count:
            self._ended.popitem(last=False)

    def _retry_after_s(self) -> float:
        """Return when the next result is forgotten; a pending task may be done at any time."""
        task = next(iter(self._finished.values()), None)
        if self._pending or task is None or task.expires_s is None:
            return 1.0
        return min(max(task.expires_s - self._clock(), 1.0), 60.0)


def _too_large(size_bytes: int, room_bytes: int) -> UnavailableError:
    return UnavailableError(
        f"The result takes {size_bytes} bytes, and tasks.max_bytes leaves {room_bytes} for it; ask again "
        "without respond-async, or raise it."
    )


def _response_bytes(response: Response) -> int:
    return sum(part.nbytes if isinstance(part, memoryview) else len(part) for part in response.body)
