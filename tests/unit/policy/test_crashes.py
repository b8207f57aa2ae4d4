from hypothesis import given
from hypothesis import strategies as st

from edge_agent.policy.crashes import Incident, blamed, restart_delay_s, suspects, within, without

KEYS = st.sampled_from(["a", "b", "c", "d"])
INCIDENTS = st.lists(
    st.builds(
        Incident,
        st.floats(0, 1e9),
        st.lists(KEYS, max_size=3, unique=True).map(lambda keys: tuple(sorted(keys))),
    ),
    max_size=12,
)


def incidents(*suspects: str) -> list[Incident]:
    return [Incident(float(index), tuple(names)) for index, names in enumerate(suspects)]


def test_nobody_is_blamed_below_the_limit() -> None:
    assert blamed(incidents("a", "a"), 3, ()) is None


def test_the_third_crash_is_blamed_on_the_version_that_was_inside() -> None:
    assert blamed(incidents("a", "a", "b", "a"), 3, ()) == "a"


def test_of_two_that_were_always_marked_together_the_newcomer_is_blamed() -> None:
    assert blamed(incidents("ab", "ab", "ab"), 3, {"b"}) == "a"
    assert blamed(incidents("ab", "ab", "ab"), 3, {"a"}) == "b"


def test_one_that_crashed_alone_is_blamed_before_its_companion() -> None:
    assert blamed(incidents("ab", "ab", "ab", "b"), 3, {"b"}) == "b"


@given(INCIDENTS, st.integers(1, 5), st.sets(KEYS))
def test_blame_falls_on_one_with_enough_incidents_and_ends_when_they_are_explained(
    found: list[Incident], limit: int, settled: set[str]
) -> None:
    left = tuple(found)
    while (key := blamed(left, limit, settled)) is not None:
        assert sum(key in incident.suspects for incident in left) >= limit
        left = without(left, key)
        assert not any(key in incident.suspects for incident in left)


@given(INCIDENTS, st.floats(0, 2e9), st.floats(1, 1e6))
def test_only_old_incidents_are_forgotten(found: list[Incident], now_s: float, window_s: float) -> None:
    kept = within(found, now_s, window_s)
    assert all(incident in found for incident in kept)
    assert all(now_s - incident.time_s > window_s for incident in found if incident not in kept)


def test_the_first_restarts_are_immediate_and_the_wait_is_bounded() -> None:
    assert [restart_delay_s(count) for count in range(6)] == [0.0] * 6
    delays = [restart_delay_s(count) for count in range(6, 64)]
    assert delays == sorted(delays)
    assert 0 < delays[0] < delays[-1] <= 30.0


class TestSuspects:
    MARKED = ("b", "a")

    def test_a_crash_is_charged_to_all_that_ran(self) -> None:
        found = suspects(self.MARKED, "a", is_clean=False, from_outside=False, ran_out=False)
        assert found == ("a", "b")

    def test_a_clean_end_and_a_kill_from_outside_to_nobody(self) -> None:
        assert suspects(self.MARKED, "a", is_clean=True, from_outside=False, ran_out=False) == ()
        assert suspects(self.MARKED, "a", is_clean=False, from_outside=True, ran_out=False) == ()

    def test_a_kill_for_lack_of_memory_to_what_was_being_loaded(self) -> None:
        assert suspects(self.MARKED, "a", is_clean=False, from_outside=True, ran_out=True) == ("a",)
        assert suspects(self.MARKED, None, is_clean=False, from_outside=True, ran_out=True) == ()
