import threading
import time

import pytest

from edge_agent.control.deadline import Deadline
from edge_agent.documents.errors import StoreUnreachableError


def test_what_a_call_returns_or_raises_comes_back() -> None:
    deadline = Deadline(60)
    assert deadline.within(lambda: 5) == 5
    with pytest.raises(ZeroDivisionError):
        deadline.within(lambda: 1 // 0)


def test_a_call_that_blocks_ends_at_the_deadline_of_all() -> None:
    deadline, end = Deadline(0.2), threading.Event()
    start_s = time.monotonic()
    for _ in range(3):
        with pytest.raises(StoreUnreachableError, match=r"did not come whole within 0\.2 s"):
            deadline.within(lambda: end.wait(60))
    end.set()
    assert time.monotonic() - start_s < 10
