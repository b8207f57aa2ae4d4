"""Loads that did not come to an end: counted by how they were ended, and limited."""

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.policy.attempts import (
    KILLS_LIMIT,
    RESETS_LIMIT,
    Attempt,
    Interruptions,
    ended,
    interrupted,
    is_careful,
)

BOOTS = st.sampled_from(["then", "now"])
ATTEMPTS = st.none() | st.builds(
    Attempt, BOOTS, st.lists(st.sampled_from("abc"), unique=True).map(tuple), st.just(("d",)) | st.just(())
)


def test_a_power_cut_is_told_from_a_kill_by_the_boot() -> None:
    assert interrupted({}, Attempt("then", ("a",)), "now") == {"a": Interruptions(resets=1)}
    assert interrupted({}, Attempt("now", ("a",)), "now") == {"a": Interruptions(kills=1)}
    assert interrupted({}, None, "now") == {}


def test_a_kill_of_what_serves_already_is_nothing_to_count() -> None:
    assert interrupted({}, Attempt("now", settling=("a",)), "now") == {}
    assert interrupted({}, Attempt("then", settling=("a",)), "now") == {"a": Interruptions(resets=1)}


def test_the_limits_of_both() -> None:
    assert not Interruptions(RESETS_LIMIT - 1, KILLS_LIMIT - 1).is_too_many
    assert Interruptions(resets=RESETS_LIMIT).is_too_many
    assert "the device went down 5 times in a row" in Interruptions(resets=RESETS_LIMIT).how
    assert Interruptions(kills=KILLS_LIMIT).is_too_many
    assert "the agent was killed 20 times in a row" in Interruptions(kills=KILLS_LIMIT).how


def test_an_end_of_serving_is_counted_for_what_was_being_loaded() -> None:
    both = Attempt("now", ("a", "b"), ("c",))
    assert ended({}, both, "b") == {"b": Interruptions(ends=1)}
    assert ended({}, both, None) == {"a": Interruptions(ends=1), "b": Interruptions(ends=1)}
    assert ended({"a": Interruptions(1, 2, 3)}, Attempt("now", ("a",)), "c") == {"a": Interruptions(1, 2, 4)}
    assert ended({}, Attempt("now", settling=("a",)), None) == {}
    assert ended({}, None, "a") == {}
    assert Interruptions(ends=KILLS_LIMIT).is_too_many
    assert "the serving process ended 20 times in a row" in Interruptions(ends=KILLS_LIMIT).how


@given(st.lists(ATTEMPTS))
def test_counts_only_grow_and_one_at_a_time(found: list[Attempt | None]) -> None:
    counts: dict[str, Interruptions] = {}
    for attempt in found:
        after = interrupted(counts, attempt, "now")
        for key, count in after.items():
            old = counts.get(key, Interruptions())
            grown = (count.resets - old.resets) + (count.kills - old.kills)
            assert grown in (0, 1)
            assert grown == 0 or (attempt is not None and key in (*attempt.loading, *attempt.settling))
        assert counts.keys() <= after.keys()
        counts = after


def test_it_is_careful_from_the_second_on() -> None:
    assert not is_careful({"a": Interruptions(1), "b": Interruptions(kills=1)})
    assert is_careful({"a": Interruptions(1, 1)})
