"""The pool of interpreters: as many as run at the same time, and no more than allowed."""

import threading
from typing import Any

import pytest

from edge_agent.engines.interpreters import Pool


class Made:
    """What the pool hands out, counted."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> Any:
        self.count += 1
        return object()


def test_one_after_the_other_is_always_the_same() -> None:
    make = Made()
    pool = Pool(make(), make, 4)
    for _ in range(5):
        pool.give_back(pool.take())
    assert make.count == 1


def test_at_the_same_time_each_has_one_up_to_the_limit() -> None:
    make = Made()
    pool = Pool(make(), make, 3)
    taken = [pool.take() for _ in range(3)]
    assert len(set(taken)) == make.count == 3
    waited: list[Any] = []
    thread = threading.Thread(target=lambda: waited.append(pool.take()))
    thread.start()
    thread.join(0.05)
    assert thread.is_alive()
    pool.give_back(taken[1])
    thread.join(10)
    assert waited == [taken[1]]
    assert make.count == 3


def test_one_that_cannot_be_made_leaves_its_place_free() -> None:
    def fail() -> Any:
        raise ValueError("no memory")

    pool = Pool(object(), fail, 2)  # type: ignore[arg-type]
    first = pool.take()
    for _ in range(3):
        with pytest.raises(ValueError, match="no memory"):
            pool.take()
    pool.give_back(first)
    assert pool.take() is first
