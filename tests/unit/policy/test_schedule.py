"""Windows against the clock: over midnight, on days whose clock is changed, several at once."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.documents.windows import Window, parse_hours
from edge_agent.policy.schedule import ALWAYS, Opening, Schedule, opening

BERLIN = ZoneInfo("Europe/Berlin")
"""Clocks went forward at 02:00 on 2026-03-29, and back at 03:00 on 2026-10-25; both are Sundays."""


def at(text: str, zone: ZoneInfo = BERLIN, fold: int = 0) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold)


def ask(text: str, now: datetime, zone: ZoneInfo = BERLIN) -> tuple[bool, datetime | None, datetime | None]:
    found = opening([Schedule(parse_hours(text).windows, zone)], now)
    return found.is_open, _time(found.opens_s, zone), _time(found.closes_s, zone)


def _time(unix_s: float | None, zone: ZoneInfo) -> datetime | None:
    return None if unix_s is None else datetime.fromtimestamp(unix_s, zone)


def test_without_a_window_it_is_always_open() -> None:
    assert opening([], at("2026-11-25 12:00")) == ALWAYS


@pytest.mark.parametrize(
    ("now", "is_open", "opens", "closes"),
    [
        ("2026-11-25 01:59:59", False, "2026-11-25 02:00", "2026-11-25 05:00"),
        ("2026-11-25 02:00", True, "2026-11-25 02:00", "2026-11-25 05:00"),
        ("2026-11-25 04:59:59", True, "2026-11-25 04:59:59", "2026-11-25 05:00"),
        ("2026-11-25 05:00", False, "2026-11-26 02:00", "2026-11-26 05:00"),
    ],
)
def test_a_window_of_every_night(now: str, is_open: bool, opens: str, closes: str) -> None:
    assert ask("02:00-05:00", at(now)) == (is_open, at(opens), at(closes))


@pytest.mark.parametrize(
    ("now", "is_open", "opens", "closes"),
    [
        ("2026-11-27 21:59", False, "2026-11-27 22:00", "2026-11-28 04:00"),
        ("2026-11-28 03:00", True, "2026-11-28 03:00", "2026-11-28 04:00"),  # Saturday, begun on Friday
        ("2026-11-28 22:30", False, "2026-11-30 22:00", "2026-12-01 04:00"),
        ("2026-11-30 03:00", False, "2026-11-30 22:00", "2026-12-01 04:00"),  # Monday, none began on Sunday
    ],
)
def test_a_window_over_midnight_belongs_to_the_day_it_begins_on(
    now: str, is_open: bool, opens: str, closes: str
) -> None:
    assert ask("mon-fri 22:00-04:00", at(now)) == (is_open, at(opens), at(closes))


def test_windows_that_meet_are_one() -> None:
    assert ask("22:00-24:00; 00:00-03:00", at("2026-11-25 23:00")) == (
        True,
        at("2026-11-25 23:00"),
        at("2026-11-26 03:00"),
    )
    assert ask("00:00-24:00", at("2026-11-25 23:00")) == (True, at("2026-11-25 23:00"), None)


def test_the_clock_of_the_zone_counts() -> None:
    now = at("2026-11-25 23:30")  # 22:30 UTC
    assert ask("22:00-23:00", now) == (False, at("2026-11-26 22:00"), at("2026-11-26 23:00"))
    utc = ZoneInfo("UTC")
    assert ask("22:00-23:00", now, utc) == (
        True,
        at("2026-11-25 22:30", utc),
        at("2026-11-25 23:00", utc),
    )


class TestChangedClocks:
    def test_a_window_around_the_skipped_hour_is_an_hour_shorter(self) -> None:
        found = opening([Schedule(parse_hours("01:00-04:00").windows, BERLIN)], at("2026-03-29 00:30"))
        assert found.opens_s == at("2026-03-29 01:00").timestamp()
        assert found.closes_s == at("2026-03-29 04:00").timestamp()
        assert found.closes_s - found.opens_s == 2 * 3600

    def test_a_window_inside_the_skipped_hour_comes_an_hour_later(self) -> None:
        assert ask("02:10-02:40", at("2026-03-29 00:30")) == (
            False,
            at("2026-03-29 03:10"),
            at("2026-03-29 03:40"),
        )

    def test_a_window_that_would_vanish_keeps_its_length(self) -> None:
        assert ask("02:30-03:10", at("2026-03-29 00:30")) == (
            False,
            at("2026-03-29 03:30"),
            at("2026-03-29 04:10"),
        )

    def test_a_window_around_the_hour_that_comes_twice_is_an_hour_longer(self) -> None:
        found = opening([Schedule(parse_hours("01:00-04:00").windows, BERLIN)], at("2026-10-25 00:30"))
        assert found.opens_s is not None
        assert found.closes_s is not None
        assert found.closes_s - found.opens_s == 4 * 3600

    def test_a_window_inside_the_hour_that_comes_twice_opens_once(self) -> None:
        assert ask("02:10-02:40", at("2026-10-25 02:20"))[0]
        assert not ask("02:10-02:40", at("2026-10-25 02:20", fold=1))[0]


class TestSeveral:
    def test_all_have_to_be_open(self) -> None:
        schedules = [
            Schedule(parse_hours("01:00-04:00").windows, BERLIN),
            Schedule(parse_hours("02:00-05:00").windows, ZoneInfo("UTC")),  # 03:00 to 06:00
        ]
        found = opening(schedules, at("2026-11-25 02:00"))
        assert found == Opening(False, at("2026-11-25 03:00").timestamp(), at("2026-11-25 04:00").timestamp())
        assert opening(schedules, at("2026-11-25 03:30")).is_open

    def test_what_never_meets_is_told(self) -> None:
        schedules = [Schedule(parse_hours(text).windows, BERLIN) for text in ("01:00-02:00", "02:00-03:00")]
        assert opening(schedules, at("2026-11-25 01:30")) == Opening(False, None, None)

    def test_days_that_never_meet_are_told(self) -> None:
        schedules = [
            Schedule(parse_hours(text).windows, BERLIN) for text in ("mon 01:00-02:00", "tue 01:00-02:00")
        ]
        assert opening(schedules, at("2026-11-24 01:30")) == Opening(False, None, None)


WINDOWS = st.builds(
    Window,
    st.sets(st.integers(0, 6), min_size=1).map(lambda days: tuple(sorted(days))),
    st.integers(0, 1439),
    st.integers(1, 1440),
).filter(lambda window: window.start_min != window.end_min)
ZONES = st.sampled_from(
    [
        ZoneInfo(name)
        for name in ("UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "Asia/Tokyo")
    ]
)
SCHEDULES = st.builds(Schedule, st.lists(WINDOWS, min_size=1, max_size=3).map(tuple), ZONES)
TIMES = st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31)).map(lambda time: time.replace(tzinfo=UTC))


@given(SCHEDULES, TIMES)
def test_one_schedule_opens_within_eight_days_for_as_long_as_its_shortest_window(
    schedule: Schedule, now: datetime
) -> None:
    found = opening([schedule], now)
    assert found.opens_s is not None
    wait_s = found.opens_s - now.timestamp()
    assert found.is_open == (wait_s == 0)
    # A day on which clocks are changed has up to 25 hours.
    assert 0 <= wait_s <= 7 * 86_400 + 3600
    if found.closes_s is not None:
        assert found.closes_s > found.opens_s
    if not found.is_open and found.closes_s is not None:
        shortest = min(window.length_min for window in schedule.windows)
        assert found.closes_s - found.opens_s >= max(60, 60 * shortest - 3600)


@given(st.lists(SCHEDULES, max_size=3), TIMES)
def test_what_is_told_comes_true(schedules: list[Schedule], now: datetime) -> None:
    found = opening(schedules, now)
    if found.is_open and found.closes_s is not None:
        assert not opening(schedules, datetime.fromtimestamp(found.closes_s, UTC)).is_open
        assert opening(
            schedules, datetime.fromtimestamp(found.closes_s, UTC) - timedelta(milliseconds=1)
        ).is_open
    if not found.is_open and found.opens_s is not None:
        assert opening(schedules, datetime.fromtimestamp(found.opens_s, UTC)).is_open
        assert not opening(
            schedules, datetime.fromtimestamp(found.opens_s, UTC) - timedelta(milliseconds=1)
        ).is_open


@given(st.lists(SCHEDULES, min_size=1, max_size=3), TIMES)
def test_it_is_open_when_each_is(schedules: list[Schedule], now: datetime) -> None:
    assert opening(schedules, now).is_open == all(opening([one], now).is_open for one in schedules)
