"""Windows as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.documents.windows import DAYS, Hours, Window, parse_hours

EVERY_DAY = (0, 1, 2, 3, 4, 5, 6)


@pytest.mark.parametrize(
    ("text", "windows"),
    [
        ("02:00-05:00", [Window(EVERY_DAY, 120, 300)]),
        ("22:30 - 04:15", [Window(EVERY_DAY, 1350, 255)]),
        ("00:00-24:00", [Window(EVERY_DAY, 0, 1440)]),
        ("Sat,Sun 00:00-24:00", [Window((5, 6), 0, 1440)]),
        ("mon-fri 22:00-04:00; sun 01:00-02:00", [Window((0, 1, 2, 3, 4), 1320, 240), Window((6,), 60, 120)]),
        ("fri-mon,wed 02:00-05:00", [Window((0, 2, 4, 5, 6), 120, 300)]),
    ],
)
def test_windows_are_read(text: str, windows: list[Window]) -> None:
    assert parse_hours(text) == Hours(tuple(windows), "local")
    assert parse_hours(f"{text} UTC") == Hours(tuple(windows), "UTC")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "has '', which is no window such as '02:00-05:00'"),
        ("2:00-5:00", "has '2:00-5:00', which is no window"),
        ("02:00-05:00;", "has '', which is no window"),
        ("02:60-05:00", "whose times are not from 00:00 to 24:00"),
        ("24:00-05:00", "whose times are not from 00:00 to 24:00"),
        ("22:00-24:01", "whose times are not from 00:00 to 24:00"),
        ("05:00-05:00", "which is empty; a whole day is 00:00-24:00"),
        ("someday 02:00-05:00", "has 'someday', which is no day; days are mon, tue"),
        ("mon- 02:00-05:00", "has 'mon-', which is no day"),
    ],
)
def test_what_is_no_window_is_told(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_hours(text)


@given(st.sets(st.integers(0, 6), min_size=1), st.integers(0, 1439), st.integers(1, 1440))
def test_what_is_written_is_read(days: set[int], start: int, end: int) -> None:
    if start == end:
        end += 1
    text = (
        f"{','.join(DAYS[day] for day in days)} {start // 60:02}:{start % 60:02}-{end // 60:02}:{end % 60:02}"
    )
    (window,) = parse_hours(text).windows
    assert window == Window(tuple(sorted(days)), start, end)
    assert 1 <= window.length_min <= 1440
