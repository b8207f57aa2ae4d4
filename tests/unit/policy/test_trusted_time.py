from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.policy.trusted_time import Times, next_proven

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
DAY = timedelta(days=1)

moments = st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))
maybe = st.none() | moments


@given(moments, maybe, maybe)
def test_the_trusted_time_is_the_latest_that_is_known(
    clock: datetime, installed: datetime | None, proven: datetime | None
) -> None:
    times = Times(clock, installed, proven)
    assert times.now in (clock, installed, proven)
    assert all(times.now >= time for time in (clock, installed, proven) if time is not None)


def test_a_clock_that_is_right_is_not_doubted() -> None:
    assert Times(NOW, NOW - DAY, NOW - DAY).doubt is None
    assert Times(NOW, NOW + timedelta(minutes=59)).doubt is None


def test_a_clock_behind_is_told_with_what_proves_it_wrong() -> None:
    clock = datetime(1970, 1, 1, tzinfo=UTC)
    installed, proven = Times(clock, NOW, NOW - DAY).doubt, Times(clock, NOW, NOW + DAY).doubt
    assert installed is not None
    assert proven is not None
    assert installed.startswith("This machine's clock says 1970-01-01 00:00 UTC, before this agent was")
    assert "installed (2026-11-25 12:00): set the clock" in installed
    assert "before the store's metadata was signed (2026-11-26 12:00): set the clock" in proven


def test_the_remedy_names_what_is_ahead() -> None:
    assert Times(NOW).remedy == "set this machine's clock, which says 2026-11-25 12:00 UTC"
    assert Times(NOW, NOW + DAY).remedy.startswith("install this agent again with a right clock")
    assert Times(NOW, NOW, NOW + DAY).remedy.startswith("replace the store's timestamp key")


@given(maybe, maybe, moments)
def test_the_proven_time_only_grows_and_never_reaches_an_expiry(
    proven: datetime | None, signed_at: datetime | None, first_expiry: datetime
) -> None:
    after = next_proven(proven, signed_at, first_expiry)
    assert after in (proven, signed_at)
    if proven is not None:
        assert after is not None
        assert after >= proven
    if after != proven:
        assert after is not None
        assert after < first_expiry
