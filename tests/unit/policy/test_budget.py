"""Periods of the byte budget, by the calendar of a time zone."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.policy.budget import KEPT_PERIODS, Budget, Period, end_of, name_of, with_used

BERLIN = ZoneInfo("Europe/Berlin")
ZONES = st.sampled_from([UTC, BERLIN, ZoneInfo("America/St_Johns"), ZoneInfo("Asia/Tokyo")])
PERIODS: st.SearchStrategy[Period] = st.sampled_from(["day", "month"])


def test_periods_end_at_midnight() -> None:
    now = datetime(2026, 12, 31, 23, 59, tzinfo=BERLIN)
    assert (name_of("day", now), name_of("month", now)) == ("2026-12-31", "2026-12")
    assert end_of("day", now) == end_of("month", now) == datetime(2027, 1, 1, tzinfo=BERLIN)
    assert end_of("month", datetime(2026, 2, 1, tzinfo=BERLIN)) == datetime(2026, 3, 1, tzinfo=BERLIN)


def test_a_day_may_have_23_or_25_hours() -> None:
    for day, hours in ((datetime(2026, 3, 29, tzinfo=BERLIN), 23), (datetime(2026, 10, 25, tzinfo=BERLIN), 25)):
        assert (end_of("day", day).timestamp() - day.timestamp()) / 3600 == hours


@given(PERIODS, st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=ZONES))
def test_the_next_period_begins_where_one_ends(period: Period, now: datetime) -> None:
    end = end_of(period, now)
    assert end > now
    before = (end.astimezone(UTC) - timedelta(seconds=1)).astimezone(end.tzinfo)
    assert name_of(period, before) == name_of(period, now)
    assert name_of(period, end) > name_of(period, now)


def test_what_is_noted_ahead_is_a_small_share() -> None:
    assert Budget(2**30, "month").lease_bytes == 4 * 2**20
    assert Budget(100 * 2**20, "month").lease_bytes == 100 * 2**20 // 64
    assert Budget(2**20, "day").lease_bytes == 64 * 2**10
    assert Budget(50 * 2**20, "day").words == "50 MiB a day"


def test_a_clock_that_is_wrong_for_a_while_does_not_renew_the_budget() -> None:
    used = with_used(with_used(with_used({}, "2026-11", 500), "1970-01", 7), "2026-11", 600)
    assert used == {"1970-01": 7, "2026-11": 600}


def test_only_the_latest_periods_are_remembered() -> None:
    used: dict[str, int] = {}
    for day in range(1, 20):
        used = with_used(used, f"2026-11-{day:02}", day)
    assert list(used.values()) == list(range(20 - KEPT_PERIODS, 20))
