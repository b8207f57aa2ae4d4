"""Which tasks there are and what became of each, compared with a model of it."""

import itertools
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edge_agent.documents.errors import NotFoundError, TooLateError, UnavailableError
from edge_agent.documents.settings import TaskSettings
from edge_agent.serving.http_messages import Response, error_response
from edge_agent.serving.tasks import PENDING, TRANSITIONS, Event, State, Task, TaskStore

RUN = "00000000000000aa"
COUNT, KEEP_S, MAX_BYTES = 4, 10.0, 16_000
OVERHEAD = 2048


class Store:
    """A store with a clock and the tasks that have been told to have ended."""

    def __init__(self, **limits: Any) -> None:
        numbers = itertools.count()
        self.now_s = 1e9
        self.ended: list[Task] = []
        self.store = TaskStore(
            TaskSettings(**limits), RUN, lambda: f"{next(numbers):032x}", lambda: self.now_s, self.ended.append
        )


def answer(size_bytes: int = 1) -> Response:
    return Response(200, (bytes(size_bytes),))


def test_the_table_of_states_is_complete_and_ends() -> None:
    assert TRANSITIONS.keys() == set(State)
    reached = {state for row in TRANSITIONS.values() for state in row.values()}
    assert reached == set(State) - {State.QUEUED}
    assert {state for state, row in TRANSITIONS.items() if Event.CANCEL in row} == PENDING
    assert [state for state, row in TRANSITIONS.items() if not row] == [State.CANCELLED, State.EXPIRED]


def test_who_has_not_asked_does_not_see_it() -> None:
    store = Store().store
    mine = store.add(1000, 10)
    assert store.find(mine.id, 1000) is mine
    for other in (0, 1001, None):
        with pytest.raises(NotFoundError, match="no such task of yours"):
            store.find(mine.id, other)


@pytest.mark.parametrize(
    "strange", ["", "x", "0" * 49, f"{RUN}-{'0' * 31}", f"{RUN}-{'F' * 32}", f"{RUN}-{'f' * 32}"]
)
def test_an_id_that_never_was_is_not_found(strange: str) -> None:
    with pytest.raises(NotFoundError):
        Store().store.find(strange, None)


def test_an_id_of_an_earlier_run_says_so() -> None:
    with pytest.raises(TooLateError, match="belongs to an earlier run of the server"):
        Store().store.find(f"{'0' * 16}-{'0' * 32}", None)


def test_a_result_without_room_fails_the_task_and_leaves_the_others() -> None:
    made = Store(max_bytes=3 * OVERHEAD)
    first, second = made.store.add(None, 10), made.store.add(None, 10)
    made.store.finish(first, answer(3 * OVERHEAD))
    assert first.state is State.FAILED
    assert first.result is not None
    assert first.result.status == 503
    made.store.finish(second, answer(10))
    assert second.state is State.DONE


def test_a_full_store_says_when_to_come_back() -> None:
    made = Store(max_count=1, keep_s=30)
    task = made.store.add(None, 1)
    with pytest.raises(UnavailableError) as caught:
        made.store.add(None, 1)
    assert caught.value.retry_after_s == 1
    made.store.finish(task, answer())
    made.now_s += 10
    with pytest.raises(UnavailableError) as caught:
        made.store.add(None, 1)
    assert caught.value.retry_after_s == 20
    made.now_s += 20
    made.store.add(None, 1)


class TaskMachine(RuleBasedStateMachine):
    """Tasks come, are answered, cancelled and deleted, time passes; a dictionary says what is right."""

    def __init__(self) -> None:
        super().__init__()
        self.real = Store(max_count=COUNT, max_bytes=MAX_BYTES, keep_s=KEEP_S)
        self.tasks: dict[str, Task] = {}
        self.states: dict[str, State] = {}
        self.sizes: dict[str, int] = {}
        self.expires_s: dict[str, float] = {}
        self.ended = 0

    def _pick(self, data: st.DataObject, *states: State) -> Task:
        names = sorted(name for name, state in self.states.items() if state in states)
        return self.tasks[data.draw(st.sampled_from(names))]

    @rule(size=st.integers(0, 6000))
    def add(self, size: int) -> None:
        self._expire()
        kept = len(self.sizes)
        if kept >= COUNT or sum(self.sizes.values()) + size + OVERHEAD > MAX_BYTES:
            with pytest.raises(UnavailableError):
                self.real.store.add(None, size)
            return
        task = self.real.store.add(None, size)
        self.tasks[task.id], self.states[task.id] = task, State.QUEUED
        self.sizes[task.id] = size + OVERHEAD

    @precondition(lambda self: PENDING & set(self.states.values()))
    @rule(data=st.data(), size=st.integers(0, 6000), is_error=st.booleans(), starts=st.booleans())
    def finish(self, data: st.DataObject, size: int, is_error: bool, starts: bool) -> None:
        task = self._pick(data, *PENDING)
        if starts:
            task.happen(Event.START)
        del self.sizes[task.id]
        has_room = sum(self.sizes.values()) + OVERHEAD + size <= MAX_BYTES
        response = error_response(500, "x" * size) if is_error else answer(size)
        if is_error:
            has_room = sum(self.sizes.values()) + OVERHEAD + len(response.body[0]) <= MAX_BYTES
            size = len(response.body[0])
        self.real.store.finish(task, response)
        is_done = has_room and not is_error
        self.states[task.id] = State.DONE if is_done else State.FAILED
        self.sizes[task.id] = OVERHEAD + (size if has_room else 0)
        self.expires_s[task.id] = self.real.now_s + KEEP_S
        assert task.result is (response if has_room else task.result)
        self.ended += 1

    @precondition(lambda self: self.states)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        task = self._pick(data, *State)
        self.real.store.remove(task)
        self.sizes.pop(task.id, None)
        if self.states[task.id] in PENDING:
            self._note_end(task.id, State.CANCELLED)
            self.ended += 1
            self.real.store.finish(task, answer())
            assert task.result is None
        else:
            del self.states[task.id]

    @rule(seconds=st.floats(0, KEEP_S))
    def pass_time(self, seconds: float) -> None:
        self.real.now_s += seconds
        self.real.store.sweep()
        self._expire()

    def _expire(self) -> None:
        for name in sorted(self.expires_s, key=lambda name: self.expires_s[name]):
            if self.states.get(name) in (State.DONE, State.FAILED) and self.expires_s[name] <= self.real.now_s:
                del self.sizes[name]
                self._note_end(name, State.EXPIRED)

    def _note_end(self, name: str, state: State) -> None:
        """Remember that a task has ended, behind those that have before; only so many are remembered."""
        self.states.pop(name)
        self.states[name] = state
        over = [one for one, known in self.states.items() if known in (State.CANCELLED, State.EXPIRED)]
        for forgotten in over[:-COUNT]:
            del self.states[forgotten]

    @invariant()
    def agrees(self) -> None:
        self._expire()
        for name in self.tasks:
            if name in self.states:
                want = self.states[name]
                found = self.real.store.find(name, None)
                assert {found.state, want} <= PENDING or found.state is want
                assert (found.result is not None) == (want in (State.DONE, State.FAILED))
            else:
                with pytest.raises(NotFoundError):
                    self.real.store.find(name, None)
        assert self.real.store.size_bytes == sum(self.sizes.values())
        assert len(self.real.store) == len(self.sizes) <= COUNT
        assert len(self.real.ended) == self.ended


TestTaskMachine = TaskMachine.TestCase
TestTaskMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
