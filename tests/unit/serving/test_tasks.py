"""Which tasks there are and what became of each, compared with a model of it, whatever happens to them."""

import asyncio
import gc
import inspect
from typing import Any, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edge_agent.documents.errors import NotFoundError, TooLateError, UnavailableError
from edge_agent.documents.settings import TaskSettings
from edge_agent.serving.http_messages import Response, error_response
from edge_agent.serving.tasks import Task, Tasks

COUNT, MAX_BYTES, OVERHEAD = 4, 12_000, 1000
"""Of one user, who may have half of all."""
ME = 1000
PENDING = Response(202, (b"not yet",))


class Waiter:
    """A client that waits for a result."""

    is_abandoned = False

    def __init__(self) -> None:
        self.heard: list[Response] = []

    def send(self, response: Response) -> None:
        self.heard.append(response)

    def peer_uid(self) -> int | None:
        return ME


class TaskMachine(RuleBasedStateMachine):
    """Tasks come, are answered, cancelled and deleted; dictionaries say what is right."""

    def __init__(self) -> None:
        super().__init__()
        self.withdrawn: list[object] = []
        self.loop = asyncio.new_event_loop()
        self.real = self.loop.run_until_complete(self._made())
        self.tasks: list[Task] = []
        self.states: dict[str, str] = {}
        """In the order in which they came; ended ones in that in which they ended."""
        self.sizes: dict[str, int] = {}
        self.waiting: dict[str, list[Waiter]] = {}
        self.is_stopped = False

    async def _made(self) -> Tasks:
        return Tasks(
            TaskSettings(max_count=2 * COUNT, max_bytes=2 * MAX_BYTES, keep_s=1000), self.withdrawn.append
        )

    def teardown(self) -> None:
        self.loop.close()

    def _pick(self, data: st.DataObject, *states: str) -> Task:
        return data.draw(st.sampled_from([task for task in self.tasks if self.states.get(task.id) in states]))

    def _make_room(self, count: int, size_bytes: int, but: str = "") -> bool:
        ended = [name for name, state in self.states.items() if state != "pending" and name != but]
        kept_bytes = sum(self.sizes.values()) - sum(self.sizes[name] for name in ended)
        if len(self.sizes) - len(ended) + count > COUNT or kept_bytes + size_bytes > MAX_BYTES:
            return False
        while len(self.sizes) + count > COUNT or sum(self.sizes.values()) + size_bytes > MAX_BYTES:
            self._forget(ended.pop(0))
        return True

    def _forget(self, name: str) -> None:
        del self.states[name], self.sizes[name]

    def _end(self, task: Task, state: str, size_bytes: int) -> None:
        self.states.pop(task.id)
        self.states[task.id], self.sizes[task.id] = state, size_bytes
        for waiter in self.waiting.pop(task.id, []):
            assert waiter.heard == [task.response]

    @rule(size=st.integers(0, 5000))
    def create(self, size: int) -> None:
        if not self._make_room(1, size + OVERHEAD):
            with pytest.raises(UnavailableError, match="leave no room for another"):
                self.real.create(ME, size)
            return
        task = self.real.create(ME, size)
        task.inference = cast(Any, task.id)
        self.tasks.append(task)
        self.states[task.id], self.sizes[task.id] = "pending", size + OVERHEAD

    @precondition(lambda self: "pending" in self.states.values())
    @rule(data=st.data(), size=st.integers(0, 5000), is_error=st.booleans())
    def end(self, data: st.DataObject, size: int, is_error: bool) -> None:
        task = self._pick(data, "pending")
        response = (
            error_response(500, "x" * size) if is_error else Response(200, (bytes(size), memoryview(b"y")))
        )
        size_bytes = OVERHEAD + sum(map(len, response.body))
        self.sizes[task.id] = size_bytes
        has_room = self._make_room(0, 0, but=task.id)
        task.send(response)
        is_done = has_room and not is_error
        self._end(task, "done" if is_done else "failed", size_bytes if has_room else OVERHEAD)
        assert task.response is not None
        if has_room:
            assert task.response.body == (b"".join(response.body),)
        else:
            assert task.response.status == 503

    @precondition(lambda self: self.states)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        task = self._pick(data, "pending", "done", "failed", "cancelled")
        if self.states[task.id] != "pending":
            self.real.cancel(task)
            self._forget(task.id)
            return
        self.real.cancel(task)
        self._end(task, "cancelled", OVERHEAD)
        assert self.withdrawn[-1] == task.id
        assert task.is_abandoned
        task.send(Response(200, (b"too late",)))
        assert task.response is not None
        assert task.response.status == 410

    @precondition(lambda self: "pending" in self.states.values() and not self.is_stopped)
    @rule(data=st.data())
    def wait(self, data: st.DataObject) -> None:
        task, waiter = self._pick(data, "pending"), Waiter()
        self.real.wait(task, waiter, 60, PENDING)
        self.waiting.setdefault(task.id, []).append(waiter)

    @precondition(lambda self: not self.is_stopped)
    @rule()
    def stop(self) -> None:
        self.is_stopped = True
        self.real.stop()
        for waiters in self.waiting.values():
            assert all(waiter.heard == [PENDING] for waiter in waiters)
        self.waiting.clear()

    @invariant()
    def agrees(self) -> None:
        for task in self.tasks:
            if task.id in self.states:
                assert self.real.find(task.id, ME) is task
                assert task.status == self.states[task.id]
                assert (task.response is None) == (task.status == "pending")
            else:
                with pytest.raises(NotFoundError):
                    self.real.find(task.id, ME)
            for stranger in (None, 0, ME + 1):
                with pytest.raises(NotFoundError):
                    self.real.find(task.id, stranger)
        assert self.real.bytes == sum(self.sizes.values())
        assert len(self.sizes) <= COUNT
        for waiters in self.waiting.values():
            assert not any(waiter.heard for waiter in waiters)


TestTaskMachine = TaskMachine.TestCase
TestTaskMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def test_an_id_of_an_earlier_run_says_so() -> None:
    async def scenario() -> None:
        tasks = Tasks(TaskSettings(), lambda _: None)
        task = tasks.create(ME, 1)
        earlier = ("0" if task.id[0] != "0" else "1") + task.id[1:]
        with pytest.raises(TooLateError, match="of an earlier run of the server"):
            tasks.find(earlier, ME)

    asyncio.run(scenario())


def test_a_task_that_was_deleted_is_kept_by_nothing() -> None:
    async def scenario() -> None:
        tasks = Tasks(TaskSettings(), lambda _: None)
        task = tasks.create(ME, 1)
        task.send(Response(200, (b"large",)))
        tasks.cancel(task)
        known = [one for one in gc.get_referrers(task) if not inspect.isframe(one)]
        assert known == []

    asyncio.run(scenario())


def test_a_user_who_has_half_makes_room_for_others_and_himself_alone() -> None:
    async def scenario() -> None:
        tasks = Tasks(TaskSettings(max_count=5), lambda _: None)
        theirs = [tasks.create(uid, 1) for uid in (None, ME + 1)]
        mine = [tasks.create(ME, 1) for _ in range(3)]
        with pytest.raises(UnavailableError, match="5 tasks of 5005 bytes, of which 3 of 3003 bytes are yours"):
            tasks.create(ME, 1)
        for task in (*theirs, *mine):
            task.send(Response(200, (b"",)))
        mine += [tasks.create(ME, 1) for _ in range(2)]
        for task in theirs:
            assert tasks.find(task.id, task.uid) is task
        for task in mine[:2]:
            with pytest.raises(NotFoundError):
                tasks.find(task.id, ME)
        newest = tasks.create(None, 1)
        with pytest.raises(NotFoundError):
            tasks.find(theirs[0].id, None)
        assert tasks.find(newest.id, None) is newest

    asyncio.run(scenario())


def test_what_a_request_becomes_is_counted_as_its_tasks() -> None:
    async def scenario() -> None:
        tasks = Tasks(TaskSettings(max_bytes=10_000), lambda _: None)
        task = tasks.create(ME, 1000)
        assert task.reserve(3000)
        assert tasks.bytes == 5000
        assert not task.reserve(1)
        task.send(Response(200, (b"",)))
        assert tasks.bytes == 1000

    asyncio.run(scenario())
