from hypothesis import given
from hypothesis import strategies as st

from converters.report.front import Point, beats, front

# Few values, so that ties are common.
POINTS = st.lists(
    st.tuples(st.sampled_from([-1.0, -0.95, -0.9]), st.integers(1, 4), st.sampled_from([1.0, 2.0, 3.0])),
    max_size=20,
)


def test_a_trade_stays_on_the_front_and_what_is_worse_does_not() -> None:
    small, exact, worse = (-0.9, 1, 1.0), (-1.0, 9, 1.0), (-0.9, 2, 1.0)
    assert front([small, worse, exact]) == [0, 2]


def test_equal_points_are_all_on_it() -> None:
    assert front([(1.0, 0.5), (1.0, 0.5)]) == [0, 1]


@given(POINTS)
def test_no_point_of_the_front_is_beaten(points: list[Point]) -> None:
    on = [points[index] for index in front(points)]
    assert not any(beats(rival, point) for point in on for rival in points)


@given(POINTS)
def test_every_other_point_is_beaten_by_one_of_the_front(points: list[Point]) -> None:
    on = front(points)
    for index in set(range(len(points))) - set(on):
        assert any(beats(points[at], points[index]) for at in on)


@given(POINTS, st.randoms())
def test_the_order_does_not_matter(points: list[Point], random: object) -> None:
    shuffled = list(points)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert sorted(points[at] for at in front(points)) == sorted(shuffled[at] for at in front(shuffled))


@given(POINTS)
def test_the_best_of_each_kind_is_on_the_front(points: list[Point]) -> None:
    on = [points[index] for index in front(points)]
    if points:
        for position in range(3):
            assert min(point[position] for point in points) in {point[position] for point in on}
