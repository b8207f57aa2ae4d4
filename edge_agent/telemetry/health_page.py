"""The health page: what the supervisor must still know after the serving process has died.

A memfd that supervisor and serving both map. Per version slot it counts requests, errors, exposures and time
run; 64 lanes say which version is inside native code, and since when; a heartbeat says that serving's loop
turns; and how long the runs of each version took is counted in the buckets of `policy.run_times`. Everything is
an aligned unsigned 64-bit word, in host order:

    word 0           magic and layout version
    word 1           heartbeat, CLOCK_MONOTONIC ns
    64 x 4 words     the slots: requests, errors, exposures, nanoseconds run
    64 words         the lanes: 0 when free, else the start time with its low 6 bits replaced by the slot
    1 word           0, or 1 more than the slot of the version that is being loaded
    64 x 208 words   the run times: how many of the slot's runs lie in each bucket

A lane is one word, so that a reader can never pair the slot of one run with the start time of another.
"""

import mmap
import os
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Self

from edge_agent.policy.run_times import BUCKETS, LONGEST_NS, SHORTEST_NS

SLOTS: Final = 64
LANES: Final = 64

_MAGIC: Final = 0x4544_4745_4850_0003
_HEARTBEAT: Final = 1
_COUNTS: Final = 2
_COUNTS_PER_SLOT: Final = 4
_MARKS: Final = _COUNTS + SLOTS * _COUNTS_PER_SLOT
_LOADING: Final = _MARKS + LANES
_RUNS: Final = _LOADING + 1
_RUNS_BEFORE_FIRST: Final = _RUNS - 96
_WORDS: Final = _RUNS + SLOTS * BUCKETS
_SIZE_BYTES: Final = _WORDS * 8
_SLOT_MASK: Final = SLOTS - 1


@dataclass(frozen=True, slots=True)
class SlotCounts:
    """What one version has done since its slot was cleared."""

    requests: int = 0
    errors: int = 0
    exposures: int = 0
    run_ns: int = 0


@dataclass(frozen=True, slots=True)
class NativeMark:
    """A version that is inside native code, since `started_ns` of CLOCK_MONOTONIC (to 64 ns)."""

    slot: int
    started_ns: int


@dataclass(frozen=True, slots=True)
class HealthSnapshot:
    """The page at one moment; `heartbeat_ns` is 0 before the first heartbeat."""

    heartbeat_ns: int
    slots: tuple[SlotCounts, ...]
    marks: tuple[NativeMark, ...]
    loading: int | None = None
    """The slot of the version that is being loaded."""


class HealthPage:
    """One process's mapping of the page; serving writes, the supervisor reads and clears."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._memory = mmap.mmap(fd, _SIZE_BYTES)
        self._words = memoryview(self._memory).cast("Q")
        # The last used lane is taken first: it is the one in the CPU's cache.
        self._free_lanes = deque(range(_MARKS, _LOADING))

    @classmethod
    def create(cls) -> Self:
        """Make an empty page; hand its `fd` to the child with `pass_fds`."""
        fd = os.memfd_create("edge-agent-health", os.MFD_CLOEXEC)
        os.ftruncate(fd, _SIZE_BYTES)
        page = cls(fd)
        page._words[0] = _MAGIC
        return page

    @classmethod
    def attach(cls, fd: int) -> Self:
        """Map a page made by another process; raises ValueError if it is none, or of another layout."""
        if os.fstat(fd).st_size != _SIZE_BYTES:
            raise ValueError("the descriptor is not a health page of this version of the agent")
        page = cls(fd)
        if page._words[0] != _MAGIC:
            page.close()
            raise ValueError("the descriptor is not a health page of this version of the agent")
        return page

    def close(self) -> None:
        """Unmap the page and close its descriptor."""
        self._words.release()
        self._memory.close()
        os.close(self.fd)

    def heartbeat(self) -> None:
        """Say that the writer's loop turns."""
        self._words[_HEARTBEAT] = time.monotonic_ns()

    def count(
        self, slot: int, *, requests: int = 0, errors: int = 0, exposures: int = 0, run_ns: int = 0
    ) -> None:
        """Add to a slot's counts; for one thread alone."""
        first, words = _first_count(slot), self._words
        if requests:
            words[first] += requests
        if errors:
            words[first + 1] += errors
        if exposures:
            words[first + 2] += exposures
        if run_ns:
            words[first + 3] += run_ns
            if not SHORTEST_NS <= run_ns <= LONGEST_NS:
                run_ns = SHORTEST_NS if run_ns < SHORTEST_NS else LONGEST_NS
            # `run_times.bucket`, written out for the request path.
            bits = run_ns.bit_length()
            words[_RUNS_BEFORE_FIRST + slot * BUCKETS + (bits << 3) + (run_ns >> bits - 4)] += 1

    def in_native(self, slot: int) -> "NativeSection":
        """Return a context manager that marks the slot as inside native code; for any thread."""
        return NativeSection(self._words, self._free_lanes, slot)

    @contextmanager
    def loading(self, slot: int) -> Iterator[None]:
        """Mark the slot as being loaded; one at a time."""
        self._words[_LOADING] = slot + 1
        try:
            yield
        finally:
            self._words[_LOADING] = 0

    def snapshot(self) -> HealthSnapshot:
        """Read the whole page."""
        return HealthSnapshot(
            heartbeat_ns=_read(self._words, _HEARTBEAT),
            slots=tuple(self._slot_counts(slot) for slot in range(SLOTS)),
            marks=tuple(
                NativeMark(mark & _SLOT_MASK, mark & ~_SLOT_MASK)
                for mark in (_read(self._words, lane) for lane in range(_MARKS, _LOADING))
                if mark
            ),
            loading=loading - 1 if (loading := _read(self._words, _LOADING)) else None,
        )

    def run_times(self, slot: int) -> dict[int, int]:
        """Return how many of a slot's runs lie in each bucket of `policy.run_times` that has any."""
        _first_count(slot)
        first = _RUNS + slot * BUCKETS
        counts = self._words[first : first + BUCKETS].tolist()
        return {index: count for index, count in enumerate(counts) if count}

    def clear_marks(self) -> None:
        """Free all lanes; for the supervisor, once the process that set them is dead."""
        self._clear(_MARKS, _RUNS - _MARKS)

    def clear_slot(self, slot: int) -> None:
        """Set a slot's counts to zero, before it is given to another version."""
        self._clear(_first_count(slot), _COUNTS_PER_SLOT)
        self._clear(_RUNS + slot * BUCKETS, BUCKETS)

    def _clear(self, first: int, words: int) -> None:
        self._words[first : first + words] = memoryview(bytes(words * 8)).cast("Q")

    def _slot_counts(self, slot: int) -> SlotCounts:
        first = _first_count(slot)
        return SlotCounts(*(_read(self._words, first + offset) for offset in range(_COUNTS_PER_SLOT)))


class NativeSection:
    """Holds one lane while a runtime is being called; the time it took is in `run_ns` afterwards."""

    __slots__ = ("_free_lanes", "_lane", "_slot", "_started_ns", "_words", "run_ns")

    def __init__(self, words: memoryview, free_lanes: deque[int], slot: int) -> None:
        self._words = words
        self._free_lanes = free_lanes
        self._slot = slot
        self.run_ns = 0

    def __enter__(self) -> Self:
        """Mark the slot; raises IndexError if all 64 lanes are taken."""
        self._lane = self._free_lanes.pop()
        self._started_ns = started_ns = time.monotonic_ns()
        self._words[self._lane] = started_ns & ~_SLOT_MASK | self._slot
        return self

    def __exit__(self, *_: object) -> None:
        self._words[self._lane] = 0
        self._free_lanes.append(self._lane)
        self.run_ns = time.monotonic_ns() - self._started_ns


def _first_count(slot: int) -> int:
    if not 0 <= slot < SLOTS:
        raise ValueError(f"slot {slot} is not on the health page, which has {SLOTS}")
    return _COUNTS + slot * _COUNTS_PER_SLOT


def _read(words: memoryview, index: int) -> int:
    """Read a word that another process may be writing: on 32-bit hosts that takes two stores."""
    value: int = words[index]
    while (again := words[index]) != value:
        value = again
    return value
