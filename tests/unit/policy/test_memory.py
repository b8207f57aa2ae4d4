"""Where the memory for a version comes from."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.policy.memory import (
    TURN_S,
    Load,
    Need,
    Never,
    Resident,
    Wait,
    excess,
    for_plan,
    for_request,
    need,
)

NOW_S = 100.0

amounts = st.integers(0, 1000)
times = st.floats(0, NOW_S, allow_nan=False)
residents = st.lists(
    st.builds(
        Resident,
        bytes=amounts,
        used_s=times,
        loaded_s=times,
        load_s=st.floats(0, 10, allow_nan=False),
        is_idle=st.booleans(),
        is_leaving=st.booleans(),
        is_fresh=st.booleans(),
    ),
    max_size=6,
)
needs = st.builds(lambda least, more: Need(least + more, least), st.integers(1, 1000), amounts)
free = st.integers(-1000, 2000)


def resident(
    size: int = 10, *, used_s: float = 0.0, loaded_s: float = 0.0, idle: bool = True, **kind: bool
) -> Resident:
    return Resident(size, used_s, loaded_s, 0.1, idle, **kind)


def freed(here: Sequence[Resident], unload: Sequence[int]) -> int:
    return sum(here[index].bytes for index in unload)


class TestNeed:
    def test_what_was_measured_goes_before_what_is_stated_and_that_before_a_guess(self) -> None:
        assert need(7, 8, 9) == Need(7, 7)
        assert need(None, 8, 9) == Need(8, 8)
        assert need(None, 0, 9) == Need(18, 9)


class TestForPlan:
    @given(needs, free, residents)
    def test_makes_room_or_says_that_there_is_none(self, wanted: Need, room: int, here: list[Resident]) -> None:
        decision = for_plan(wanted, room, here)
        everything = max(0, room + sum(one.bytes for one in here))
        if isinstance(decision, Never):
            assert decision.allowed_bytes == everything < wanted.least_bytes
        else:
            assert len(set(decision.unload)) == len(decision.unload)
            left = room + freed(here, decision.unload)
            assert left >= min(wanted.bytes, everything)
            assert left >= wanted.least_bytes

    @given(needs, free, residents)
    def test_beside_touches_nothing_in_use(self, wanted: Need, room: int, here: list[Resident]) -> None:
        decision = for_plan(wanted, room, here)
        if isinstance(decision, Load) and not decision.in_place:
            assert all(here[index].is_idle and not here[index].is_leaving for index in decision.unload)
        if room >= wanted.bytes:
            assert decision == Load()

    def test_idle_ones_go_first_the_least_recently_used_before_others(self) -> None:
        here = [resident(used_s=3), resident(used_s=1), resident(used_s=2, idle=False), resident(used_s=2)]
        assert for_plan(Need(15, 15), 0, here) == Load((1, 3))

    def test_else_those_that_leave_and_what_was_just_loaded_last_of_the_idle(self) -> None:
        here = [resident(is_fresh=True), resident(idle=False, is_leaving=True), resident(idle=False)]
        assert for_plan(Need(10, 10), 0, here) == Load((1,), in_place=True)
        assert for_plan(Need(20, 20), 0, here) == Load((1, 0), in_place=True)
        assert for_plan(Need(30, 30), 0, here) == Load((1, 0, 2), in_place=True)
        assert for_plan(Need(31, 31), 0, here) == Never(30)

    def test_a_guess_that_is_too_much_is_tried_with_all_that_there_is(self) -> None:
        assert for_plan(Need(200, 20), 5, [resident(20)]) == Load((0,), in_place=True)


class TestForRequest:
    @given(needs, free, residents)
    def test_makes_room_waits_or_says_that_there_is_none(
        self, wanted: Need, room: int, here: list[Resident]
    ) -> None:
        decision = for_request(wanted, room, here, NOW_S)
        everything = max(0, room + sum(one.bytes for one in here))
        if isinstance(decision, Never):
            assert decision.allowed_bytes == everything < wanted.least_bytes
        elif isinstance(decision, Wait):
            assert decision.until_s > NOW_S
            later = for_request(wanted, room, here, decision.until_s + 100)
            assert isinstance(later, Load)
        else:
            assert room + freed(here, decision.unload) >= min(wanted.bytes, everything)
            assert decision.in_place == any(not here[index].is_idle for index in decision.unload)

    @given(st.floats(0, 3 * TURN_S, allow_nan=False), st.booleans())
    def test_who_was_just_loaded_has_its_turn(self, age_s: float, idle: bool) -> None:
        here = [resident(loaded_s=NOW_S - age_s, idle=idle)]
        decision = for_request(Need(10, 10), 0, here, NOW_S)
        turn_s = 0.2 if idle else TURN_S
        assert isinstance(decision, Load if NOW_S - age_s + turn_s <= NOW_S else Wait)

    def test_of_those_in_use_the_one_goes_that_was_here_longest(self) -> None:
        here = [resident(loaded_s=5, idle=False), resident(loaded_s=4, idle=False)]
        assert for_request(Need(10, 10), 0, here, NOW_S) == Load((1,), in_place=True)


class TestExcess:
    @given(free, residents)
    def test_only_idle_ones_and_no_more_than_needed(self, room: int, here: list[Resident]) -> None:
        unload = excess(room, here)
        assert all(here[index].is_idle and not here[index].is_fresh for index in unload)
        if unload:
            assert room + freed(here, unload[:-1]) < 0
