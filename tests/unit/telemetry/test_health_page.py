import os
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.policy.run_times import bucket
from edge_agent.telemetry.health_page import LANES, SLOTS, HealthPage, NativeMark, SlotCounts

WRITER = """
import os, sys
from edge_agent.policy.run_times import bucket
from edge_agent.telemetry.health_page import HealthPage
page = HealthPage.attach(int(sys.argv[1]))
page.heartbeat()
page.count(3, requests=2, errors=1, exposures=5, run_ns=700)
section = page.in_native(63)
section.__enter__()
os.kill(os.getpid(), 9)
"""


@pytest.fixture
def page():
    page = HealthPage.create()
    yield page
    page.close()


def test_a_new_page_is_empty(page):
    snapshot = page.snapshot()
    assert snapshot.heartbeat_ns == 0
    assert snapshot.slots == (SlotCounts(),) * SLOTS
    assert snapshot.marks == ()


def test_what_a_killed_process_has_written_stays(page):
    before_ns = time.monotonic_ns()
    done = subprocess.run([sys.executable, "-c", WRITER, str(page.fd)], pass_fds=[page.fd], check=False)
    assert done.returncode == -9
    snapshot = page.snapshot()
    assert before_ns < snapshot.heartbeat_ns < time.monotonic_ns()
    assert snapshot.slots[3] == SlotCounts(requests=2, errors=1, exposures=5, run_ns=700)
    (mark,) = snapshot.marks
    assert mark.slot == 63
    assert before_ns - 64 <= mark.started_ns < time.monotonic_ns()
    page.clear_marks()
    page.clear_slot(3)
    snapshot = page.snapshot()
    assert snapshot.marks == ()
    assert snapshot.slots[3] == SlotCounts()


def test_a_section_marks_its_slot_and_takes_the_time(page):
    with page.in_native(5) as outer:
        with page.in_native(5):
            assert [mark.slot for mark in page.snapshot().marks] == [5, 5]
        assert isinstance(page.snapshot().marks[0], NativeMark)
    assert page.snapshot().marks == ()
    assert 0 < outer.run_ns < 10**9


def test_a_section_ends_with_an_error(page):
    with pytest.raises(ZeroDivisionError), page.in_native(0):
        _ = 1 / 0
    assert page.snapshot().marks == ()


def test_all_lanes_can_be_taken_and_come_back(page):
    sections = [page.in_native(slot) for slot in range(LANES)]
    for section in sections:
        section.__enter__()
    assert sorted(mark.slot for mark in page.snapshot().marks) == list(range(SLOTS))
    with pytest.raises(IndexError):
        page.in_native(0).__enter__()
    for section in sections:
        section.__exit__(None, None, None)
    with page.in_native(1):
        assert len(page.snapshot().marks) == 1


def test_threads_share_the_lanes(page):
    def work():
        for _ in range(2000):
            with page.in_native(7) as section:
                pass
            took_ns.append(section.run_ns)

    took_ns = []

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(took_ns) == 8000
    assert page.snapshot().marks == ()


def test_counts_add_up(page):
    page.count(7, requests=1, exposures=1, run_ns=5)
    page.count(7, errors=1, run_ns=7)
    page.count(8, exposures=1)
    assert page.snapshot().slots[7] == SlotCounts(requests=1, errors=1, exposures=1, run_ns=12)
    assert page.snapshot().slots[8] == SlotCounts(exposures=1)


@given(st.lists(st.integers(1, 10**12), max_size=20))
def test_run_times_are_counted_in_their_buckets(run_times):
    page = HealthPage.create()
    for run_ns in run_times:
        page.count(63, run_ns=run_ns)
    assert page.run_times(63) == Counter(map(bucket, run_times))
    assert page.run_times(62) == {}
    with page.in_native(1):
        page.clear_marks()
    assert page.run_times(63) == Counter(map(bucket, run_times))
    page.clear_slot(63)
    assert page.run_times(63) == {}
    page.close()


@pytest.mark.parametrize("slot", [-1, SLOTS])
def test_a_slot_that_is_not_there_is_refused(page, slot):
    with pytest.raises(ValueError, match="not on the health page"):
        page.count(slot, requests=1)


def test_something_else_is_no_page():
    fd = os.memfd_create("other")
    with pytest.raises(ValueError, match="not a health page"):
        HealthPage.attach(fd)
    os.ftruncate(fd, os.fstat(HealthPage.create().fd).st_size)
    with pytest.raises(ValueError, match="not a health page"):
        HealthPage.attach(fd)


def test_the_version_that_is_being_loaded_outlives_the_process(page):
    assert page.snapshot().loading is None
    with page.loading(0):
        with page.in_native(0):
            assert page.snapshot().loading == 0
        assert page.snapshot().loading == 0
    assert page.snapshot().loading is None
    left_open = page.loading(63)
    left_open.__enter__()
    assert page.snapshot().loading == 63
    page.clear_marks()
    assert page.snapshot().loading is None
