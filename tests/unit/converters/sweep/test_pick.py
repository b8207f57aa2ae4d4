import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from converters.errors import GateError
from converters.sweep.pick import Constraint, Pick, Result, choose, parse
from edge_agent.documents.errors import RequestError

RESULTS = st.lists(
    st.builds(
        Result,
        quality=st.floats(0, 1),
        drop=st.floats(-5, 50),
        size_bytes=st.integers(1, 10**7),
        latency_ms=st.floats(0.001, 1000),
        agreement=st.floats(0, 1),
    ),
    min_size=1,
    max_size=12,
)


def a_result(
    drop: float = 0.0, size_bytes: int = 1000, latency_ms: float = 1.0, quality: float = 1.0
) -> Result:
    return Result(quality, drop, size_bytes, latency_ms, agreement=1.0)


@pytest.mark.parametrize(
    ("text", "quantity", "at_most", "limit"),
    [
        ("drop<=0.5pt, fastest", "drop", True, 0.5),
        ("DROP <= .5, Fastest", "drop", True, 0.5),
        ("size<=200kB, fastest", "size", True, 200_000.0),
        ("size <= 1.5 MB, fastest", "size", True, 1_500_000.0),
        ("size>=10B,fastest", "size", False, 10.0),
        ("latency<=3ms,fastest", "latency", True, 3.0),
        ("agreement>=99.5%, fastest", "agreement", False, 99.5),
    ],
)
def test_constraints_are_read(text: str, quantity: str, at_most: bool, limit: float) -> None:
    pick = parse(text)
    (found,) = pick.constraints
    assert (found.quantity, found.at_most, found.limit, pick.goal) == (quantity, at_most, limit, "fastest")


@pytest.mark.parametrize("goal", ["fastest", "smallest", "most-accurate"])
def test_a_goal_may_stand_alone(goal: str) -> None:
    assert parse(goal) == Pick((), goal)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("drop<=0.5pt", "does not end with a goal but with 'drop<=0.5pt'"),
        ("", "does not end with a goal but with ''"),
        ("fastest, drop<=1", "does not end with a goal but with 'drop<=1'"),
        ("fastest, smallest", "has the part 'fastest', which is no constraint"),
        ("drop<0.5pt, fastest", "has the part 'drop<0.5pt', which is no constraint"),
        ("drop<=-1, fastest", "which is no constraint"),
        ("drop<=1.2.3pt, fastest", "which is no constraint"),
        ("price<=3, fastest", "limits 'price', which is not measured"),
        ("size<=3, fastest", "gives 'size<=3' no unit, size takes B, kB, MB"),
        ("latency<=3kB, fastest", "the unit 'kB', latency takes ms"),
    ],
)
def test_what_is_wrong_is_named_with_the_grammar(text: str, wrong: str) -> None:
    with pytest.raises(RequestError, match="one goal of fastest, smallest, most-accurate") as caught:
        parse(text)
    assert wrong in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse(text)
    except RequestError:
        return


@given(
    st.sampled_from(["drop", "size", "latency", "agreement"]),
    st.sampled_from(["<=", ">="]),
    st.floats(0, 1000).map(lambda number: round(number, 3)),
)
def test_what_is_written_is_what_is_read(quantity: str, sign: str, number: float) -> None:
    unit = {"drop": "pt", "size": "B", "latency": "ms", "agreement": "%"}[quantity]
    (found,) = parse(f"{quantity}{sign}{number:.3f}{unit}, smallest").constraints
    assert found == Constraint(quantity, sign == "<=", number, f"{quantity}{sign}{number:.3f}{unit}")  # type: ignore[arg-type]


@given(RESULTS, st.floats(0, 20), st.sampled_from(["fastest", "smallest", "most-accurate"]))
def test_the_choice_meets_the_constraints_and_nothing_that_does_is_better(
    results: list[Result], limit: float, goal: str
) -> None:
    pick = parse(f"drop<={limit:.3f}pt, latency<=500ms, {goal}")
    left = [result for result in results if all(one.allows(result) for one in pick.constraints)]
    assume(left)
    chosen = results[choose(pick, results)]
    assert chosen in left
    if goal == "fastest":
        assert chosen.latency_ms == min(result.latency_ms for result in left)
    elif goal == "smallest":
        assert chosen.size_bytes == min(result.size_bytes for result in left)
    else:
        assert chosen.quality == max(result.quality for result in left)


def test_of_equally_fast_ones_the_smaller_is_taken() -> None:
    assert (
        choose(parse("fastest"), [a_result(size_bytes=9), a_result(size_bytes=8), a_result(size_bytes=8)]) == 1
    )


def test_a_drop_of_exactly_the_limit_is_allowed() -> None:
    assert choose(parse("drop<=0.5pt, fastest"), [a_result(drop=100 * (0.97 - 0.965))]) == 0


def test_the_tightest_drop_is_what_a_search_aims_at() -> None:
    assert parse("drop<=2, drop<=0.5, size<=1kB, fastest").max_drop == 0.5
    assert parse("drop>=2, fastest").max_drop is None


def test_a_constraint_that_nothing_meets_is_named_with_the_nearest() -> None:
    results = [a_result(drop=2.0), a_result(drop=1.25)]
    with pytest.raises(GateError, match=r"No result meets drop<=0.5pt: the nearest has 1.25 pt; relax it\."):
        choose(parse("size<=1MB, drop<=0.5pt, fastest"), results)


def test_constraints_that_only_exclude_each_other_are_named_together() -> None:
    results = [a_result(drop=2.0, size_bytes=10), a_result(drop=0.0, size_bytes=5000)]
    with pytest.raises(GateError, match=r"No result meets all of: drop<=1pt, size<=1kB; relax one"):
        choose(parse("drop<=1pt, size<=1kB, fastest"), results)


def test_nothing_measured_is_told_as_that() -> None:
    with pytest.raises(GateError, match="Nothing was measured"):
        choose(parse("fastest"), [])
