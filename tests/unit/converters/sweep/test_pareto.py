from hypothesis import given
from hypothesis import strategies as st

from converters.sweep.pareto import Point, dominates, front

# Few values, so that ties are common.
POINTS = st.lists(
    st.builds(
        Point,
        quality=st.sampled_from([0.9, 0.95, 1.0]),
        size_bytes=st.integers(1, 4),
        latency_ms=st.sampled_from([1.0, 2.0, 3.0]),
    ),
    max_size=20,
)


def test_a_trade_stays_on_the_front_and_what_is_worse_does_not() -> None:
    small, exact, worse = Point(0.9, 1, 1.0), Point(1.0, 9, 1.0), Point(0.9, 2, 1.0)
    assert front([small, worse, exact]) == [0, 2]


@given(POINTS)
def test_no_point_of_the_front_is_dominated(points: list[Point]) -> None:
    on = [points[index] for index in front(points)]
    assert not any(dominates(rival, point) for point in on for rival in points)


@given(POINTS)
def test_every_other_point_is_dominated_by_one_of_the_front(points: list[Point]) -> None:
    on = front(points)
    for index in set(range(len(points))) - set(on):
        assert any(dominates(points[at], points[index]) for at in on)


@given(POINTS)
def test_there_is_a_front_whenever_there_are_points(points: list[Point]) -> None:
    assert bool(front(points)) == bool(points)


@given(POINTS, st.randoms())
def test_the_order_does_not_matter(points: list[Point], random: object) -> None:
    shuffled = list(points)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    key = repr
    assert sorted((points[at] for at in front(points)), key=key) == sorted(
        (shuffled[at] for at in front(shuffled)), key=key
    )


@given(POINTS)
def test_the_best_of_each_kind_is_on_the_front(points: list[Point]) -> None:
    on = [points[index] for index in front(points)]
    if points:
        assert max(point.quality for point in points) in {point.quality for point in on}
        assert min(point.size_bytes for point in points) in {point.size_bytes for point in on}
        assert min(point.latency_ms for point in points) in {point.latency_ms for point in on}
