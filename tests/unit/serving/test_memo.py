"""Known requests: what is remembered of them, for how long, and in how much memory."""

from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.documents.plan import ModelPlan
from edge_agent.documents.settings import CacheSettings
from edge_agent.serving.cache import Remembered, ResultCache
from edge_agent.serving.http_messages import Response
from edge_agent.serving.memo import ANSWER_BYTES, QUESTION_BYTES, Hit, Memo, Written
from edge_agent.serving.router import Choice, Table
from edge_agent.telemetry.counters import CacheCounters

TABLE: Any = object()
OTHER_TABLE: Any = object()
REMEMBERED = Remembered({"y": np.zeros(1)}, "a", 1, 0.0)
ANSWER = Written(REMEMBERED, Response(200, (), head=b"head"), b"before", b"after")
SMALLEST = QUESTION_BYTES + ANSWER_BYTES + len(b"headbeforeafter")


class Known:
    """A memo with its cache, which has room for eight times as much."""

    def __init__(self, questions: int) -> None:
        self.counters = CacheCounters()
        settings = CacheSettings(max_bytes=8 * questions * (SMALLEST + 1))
        self.cache = ResultCache(settings, bytes(64), self.counters, lambda: 0.0)
        self.cache.keep({"a": "m"}, {})
        self.memo = Memo(self.cache)

    def learn(self, raw: bytes, arm: str = "x", answer: Written = ANSWER, table: Table = TABLE) -> None:
        loaded: Any = SimpleNamespace(plan=SimpleNamespace(sha256="a", version="1"))
        choice = Choice(loaded, ModelPlan("m"), arm, 0, True)
        self.memo.learn(raw, Hit(table, "m", None, "unit", choice, b"key", REMEMBERED), answer)

    def __contains__(self, raw: bytes) -> bool:
        return self.memo.find(raw, TABLE) is not None


def test_what_was_learnt_is_found_by_all_of_the_bytes() -> None:
    known = Known(4)
    known.learn(b"ask")
    question = known.memo.find(b"ask", TABLE)
    assert question is not None
    assert (question.model, question.version, question.unit, question.keys) == (
        "m",
        None,
        "unit",
        {"a": b"key"},
    )
    assert question.answers == {("1", "x"): ANSWER}
    assert b"ask " not in known


def test_each_arm_has_an_answer_of_its_own() -> None:
    known = Known(4)
    other = Written(REMEMBERED, Response(200, ()), b"other", b"")
    known.learn(b"ask")
    known.learn(b"ask", "y", other)
    question = known.memo.find(b"ask", TABLE)
    assert question is not None
    assert question.answers == {("1", "x"): ANSWER, ("1", "y"): other}


def test_nothing_outlives_the_table_it_was_asked_of() -> None:
    known = Known(4)
    known.learn(b"1")
    known.learn(b"2")
    assert known.memo.find(b"1", OTHER_TABLE) is None
    assert b"2" not in known
    assert known.counters.bytes == 0


def test_the_least_recently_asked_goes_first() -> None:
    known = Known(2)
    known.learn(b"1")
    known.learn(b"2")
    assert b"1" in known
    known.learn(b"3")
    assert [raw in known for raw in (b"1", b"2", b"3")] == [True, False, True]


def test_results_make_room_for_questions() -> None:
    known = Known(4)
    known.cache.put(b"large", "a", {"y": np.zeros(known.cache.max_bytes - 1100, np.uint8)})
    assert known.counters.entries == 1
    known.learn(b"1")
    assert b"1" in known
    assert known.counters.entries == 0


def test_what_is_too_large_is_not_kept_and_takes_nothing_else_with_it() -> None:
    known = Known(2)
    known.learn(b"1")
    known.learn(b"2" * 10 * SMALLEST)
    assert b"2" * 10 * SMALLEST not in known
    known.learn(b"3")
    known.learn(b"3", "y", Written(REMEMBERED, Response(200, ()), b"x" * 10 * SMALLEST, b""))
    question = known.memo.find(b"3", TABLE)
    assert question is not None
    assert list(question.answers) == [("1", "x")]


@given(
    st.lists(
        st.tuples(st.binary(min_size=1, max_size=2), st.sampled_from("xyz"), st.integers(0, 2 * SMALLEST)),
        max_size=60,
    )
)
def test_the_memory_is_bounded_and_all_of_it_comes_back(steps: list[tuple[bytes, str, int]]) -> None:
    known = Known(3)
    for raw, arm, size in steps:
        known.learn(raw, arm, Written(REMEMBERED, Response(200, ()), b"x" * size, b""))
        assert 0 <= known.counters.bytes <= known.cache.max_bytes // 8
    known.memo.clear()
    assert known.counters.bytes == 0
