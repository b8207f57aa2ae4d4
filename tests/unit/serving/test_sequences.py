"""What is kept of sequences, compared with a model of it, whatever comes in whatever order."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edge_agent.documents.errors import PayloadTooLargeError, RequestError, TooLateError, UnavailableError
from edge_agent.documents.plan import StatePair
from edge_agent.documents.settings import SequenceSettings
from edge_agent.documents.tensors import TensorSpec
from edge_agent.serving.calls import InferRequest
from edge_agent.serving.sequences import Key, SequenceStore, Turn, Wish, wish_of

COUNT, IDLE_S = 4, 10.0
ITEM = 8
OVERHEAD = 500


def version(name: str) -> Any:
    """Return a version whose state is one FP64 number for each row."""
    tensors = {"x": TensorSpec("x", "FP32", (-1, 2)), "before": TensorSpec("before", "FP64", (-1,))}
    plan = SimpleNamespace(model="m", version=name, state=(StatePair("before", "after"),))
    return SimpleNamespace(plan=plan, signature=SimpleNamespace(inputs=tensors), holds=0)


def choice(loaded: Any) -> Any:
    return SimpleNamespace(loaded=loaded)


def request(rows: int = 1) -> InferRequest:
    return InferRequest(None, {}, {"x": np.zeros((rows, 2), np.float32)}, {})


def turn(name: int, starts: bool = False, ends: bool = False, wanted: str | None = None) -> Turn:
    return Turn(Key("m", str(name), None), wanted, Wish(str(name), starts, ends), cast(Any, None))


class Store:
    """A store with a clock, and two versions."""

    def __init__(self, **limits: Any) -> None:
        self.now_s = 1000.0
        self.versions = [version("1"), version("2")]
        self.store = SequenceStore(SequenceSettings(**limits), lambda _: None, lambda: self.now_s)

    def ask(self, one: Turn, result: float, rows: int = 1, by: int = 0) -> float:
        """Have a request answered at once; return the state that it was given."""
        assert self.store.join(one)
        return self.answer(one, result, rows, by)

    def answer(self, one: Turn, result: float, rows: int = 1, by: int = 0) -> float:
        try:
            chosen = self.store.begin(one) or choice(self.versions[by])
            given = self.store.fill(one, chosen, request(rows))["before"]
        except RequestError:
            self.store.leave(one, False)
            raise
        assert self.store.take(one, {"after": np.full(rows, result)}) is None
        self.store.leave(one, True)
        return float(given[0])


def test_a_batch_and_a_version_stay_what_they_were() -> None:
    store = Store()
    store.ask(turn(1, starts=True), 1.0, rows=3)
    with pytest.raises(RequestError, match="batch of 3, not 2; start another one"):
        store.ask(turn(1), 2.0, rows=2)
    with pytest.raises(RequestError, match="goes on with version 1 alone"):
        store.ask(turn(1, wanted="2"), 2.0, rows=3)
    assert store.ask(turn(1, wanted="1"), 2.0, rows=3) == 1.0


def test_a_state_that_its_input_does_not_take_fails_the_request() -> None:
    store = Store()
    store.ask(turn(1, starts=True), 1.0)
    wrongs: tuple[Any, ...] = (np.zeros((1, 1)), np.zeros(1, np.float32), [1.0], None)
    for wrong in wrongs:
        one = turn(1)
        store.store.join(one)
        chosen = store.store.begin(one)
        assert chosen is not None
        store.store.fill(one, chosen, request())
        error = store.store.take(one, {} if wrong is None else {"after": wrong})
        assert "which its input 'before' does not take" in str(error)
        store.store.leave(one, False)
    assert store.ask(turn(1), 2.0) == 1.0


def test_a_state_that_is_too_large_by_itself_is_refused_and_evicts_nobody() -> None:
    store = Store(max_bytes=4 * OVERHEAD)
    store.ask(turn(1, starts=True), 1.0)
    with pytest.raises(PayloadTooLargeError, match=r"sequences\.max_bytes allows 2000"):
        store.ask(turn(2, starts=True), 1.0, rows=3 * OVERHEAD // ITEM + 1)
    assert store.ask(turn(1), 2.0) == 1.0


def test_busy_sequences_make_no_room() -> None:
    store = Store(max_count=1)
    assert store.store.join(turn(1, starts=True))
    with pytest.raises(UnavailableError, match="1 sequences of 0 bytes are busy"):
        store.store.join(turn(2, starts=True))


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"sequence_id": 1}, Wish("1", False, False)),
        ({"sequence_id": 2**64 - 1, "sequence_start": True}, Wish(str(2**64 - 1), True, False)),
        ({"sequence_id": "a" * 128, "sequence_end": True}, Wish("a" * 128, False, True)),
        ({"sequence_id": 0, "sequence_start": True}, None),
        ({"sequence_id": ""}, None),
        ({"sequence_start": True}, None),
    ],
)
def test_parameters_are_read(parameters: dict[str, Any], said: Wish | None) -> None:
    assert wish_of(parameters) == said


class SequenceMachine(RuleBasedStateMachine):
    """Requests come, are answered or fail, time passes, versions are ended; a dictionary says what is right."""

    def __init__(self) -> None:
        super().__init__()
        self.real = Store(max_count=COUNT, idle_s=IDLE_S)
        self.queues: dict[int, list[Turn]] = {}
        self.kept: dict[int, tuple[float, int]] = {}
        self.used_s: dict[int, float] = {}
        self.lost: dict[int, None] = {}
        self.counter = 0.0

    def _forget_idle(self) -> None:
        for name in sorted((n for n in self.kept if not self.queues.get(n)), key=lambda n: self.used_s[n]):
            if self.used_s[name] <= self.real.now_s - IDLE_S:
                del self.kept[name]
                self._lose(name)

    def _known(self) -> set[int]:
        return set(self.kept) | {name for name, queue in self.queues.items() if queue}

    @rule(name=st.integers(1, 6), starts=st.booleans(), ends=st.booleans())
    def join(self, name: int, starts: bool, ends: bool) -> None:
        self._tick()
        one, known = turn(name, starts, ends), self._known()
        if name not in known and not starts:
            with pytest.raises(RequestError) as caught:
                self.real.store.join(one)
            assert caught.type is (TooLateError if name in self.lost else RequestError)
            return
        if name not in known and len(known) == COUNT:
            idle = sorted((n for n in self.kept if not self.queues.get(n)), key=lambda n: self.used_s[n])
            if not idle:
                with pytest.raises(UnavailableError):
                    self.real.store.join(one)
                return
            del self.kept[idle[0]]
            self._lose(idle[0])
        queue = self.queues.setdefault(name, [])
        assert self.real.store.join(one) == (not queue)
        queue.append(one)
        self.used_s[name] = self.real.now_s

    def _tick(self) -> None:
        """Have each step be later than all before it, so that who was idle longest is no matter of chance."""
        self.real.now_s += 0.001
        self._forget_idle()

    def _lose(self, name: int) -> None:
        self.lost.pop(name, None)
        self.lost[name] = None
        if len(self.lost) > COUNT:
            del self.lost[next(iter(self.lost))]

    @rule(name=st.integers(1, 6), ends=st.sampled_from([False, False, True]), by=st.integers(0, 1))
    def ask(self, name: int, ends: bool, by: int) -> None:
        """Have a request come and be answered before any other, so that many sequences get under way."""
        self._forget_idle()
        if not self.queues.get(name):
            self.join(name, name not in self._known(), ends)
            if self.queues.get(name):
                self._answer(name, False, by, False)

    @precondition(lambda self: any(self.queues.values()))
    @rule(data=st.data(), fails=st.booleans(), by=st.integers(0, 1), is_updated=st.booleans())
    def answer(self, data: st.DataObject, fails: bool, by: int, is_updated: bool) -> None:
        name = data.draw(st.sampled_from(sorted(n for n, queue in self.queues.items() if queue)))
        self._answer(name, fails, by, is_updated)

    def _answer(self, name: int, fails: bool, by: int, is_updated: bool) -> None:
        queue = self.queues[name]
        self._tick()
        one = queue.pop(0)
        store = self.real.store
        if not one.wish.starts and name not in self.kept:
            with pytest.raises(RequestError):
                store.begin(one)
            following = store.leave(one, False)
        else:
            following = self._run(name, one, fails, by, is_updated)
        assert following is (queue[0] if queue else None)
        self.used_s[name] = self.real.now_s

    def _run(self, name: int, one: Turn, fails: bool, by: int, is_updated: bool) -> Turn | None:
        store, known = self.real.store, self.kept.get(name)
        chosen = store.begin(one)
        if one.wish.starts:
            assert chosen is None
            want, loaded = 0.0, self.real.versions[by]
        else:
            assert known is not None
            want, by = known
            loaded = self.real.versions[by]
            assert chosen is not None
            assert chosen.loaded is loaded
        given = store.fill(one, chosen or choice(loaded), request())["before"]
        assert given.tolist() == [want]
        self.counter += 1
        if is_updated:
            self._end(by, name)
        assert store.take(one, {"after": np.array([self.counter])}) is None if one.next is not None else True
        following = store.leave(one, not fails)
        if not fails:
            self.kept.pop(name, None)
            if not is_updated:
                self.lost.pop(name, None)
                self.kept |= {} if one.wish.ends else {name: (self.counter, by)}
        return following

    def _end(self, by: int, running: int | None = None) -> None:
        self.real.store.end_of(self.real.versions[by])
        for name in sorted(self._known() | {running or 0}, key=lambda name: self.used_s.get(name, 0.0)):
            is_kept = name in self.kept and self.kept[name][1] == by
            if is_kept:
                del self.kept[name]
            if is_kept or name == running:
                self._lose(name)

    @rule(by=st.integers(0, 1))
    def update(self, by: int) -> None:
        self._end(by)

    @rule(seconds=st.floats(0, 2 * IDLE_S))
    def pass_time(self, seconds: float) -> None:
        self.real.now_s += seconds
        self.real.store.sweep()
        self._forget_idle()

    @invariant()
    def agrees(self) -> None:
        assert len(self.real.store) == len(self._known())
        assert self.real.store.size_bytes == len(self.kept) * (OVERHEAD + ITEM)
        for number, loaded in enumerate(self.real.versions):
            assert loaded.holds == sum(at == number for _, at in self.kept.values())


TestSequenceMachine = SequenceMachine.TestCase
TestSequenceMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
