from hypothesis import given
from hypothesis import strategies as st

from converters.report.front import front

POINTS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12)


def beats(a: tuple[int, int], b: tuple[int, int], sign: int) -> bool:
    return a[0] <= b[0] and sign * a[1] >= sign * b[1] and a != b


@given(POINTS, st.booleans())
def test_front_is_what_nothing_beats(points: list[tuple[int, int]], higher: bool) -> None:
    sign = 1 if higher else -1

    kept = front(points, higher_is_better=higher)

    unbeaten = {one for one in points if not any(beats(other, one, sign) for other in points)}
    assert {points[index] for index in kept} == unbeaten
    assert len(kept) == len(unbeaten)
    assert [points[index][0] for index in kept] == sorted(points[index][0] for index in kept)


def test_of_equal_points_the_first_counts() -> None:
    assert front([(1.0, 0.5), (1.0, 0.5)]) == [0]
