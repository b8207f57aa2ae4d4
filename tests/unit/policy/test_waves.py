from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.documents.deployment import Candidate, Choice, Deployment, Rollout, Wave
from edge_agent.policy.waves import in_rollout, next_wave_s, position, share

NOW = datetime(2026, 11, 22, tzinfo=UTC)
TEXT = st.text(min_size=1, max_size=40)


@given(TEXT, TEXT)
def test_a_position_is_below_100_and_always_the_same(salt: str, device: str) -> None:
    assert 0 <= position(salt, device) < 100
    assert position(salt, device) == position(salt, device)


@given(TEXT, TEXT, st.lists(st.floats(0, 100), min_size=2, max_size=6).map(sorted))
def test_a_device_stays_in_while_the_share_grows(salt: str, device: str, shares: list[float]) -> None:
    inside = [in_rollout(Rollout(salt=salt, percentage=percentage), device, NOW) for percentage in shares]
    assert all(before <= after for before, after in pairwise(inside))


@given(TEXT, TEXT)
def test_nothing_and_everything(salt: str, device: str) -> None:
    assert not in_rollout(Rollout(salt=salt, percentage=0), device, NOW)
    assert in_rollout(Rollout(salt=salt, percentage=100), device, NOW)


def test_positions_are_uniform_and_salts_independent() -> None:
    devices = [f"device-{number}" for number in range(4000)]
    first = {device for device in devices if position("a", device) < 25}
    second = {device for device in devices if position("b", device) < 25}
    assert 900 < len(first) < 1100
    assert 900 < len(second) < 1100
    assert 190 < len(first & second) < 310


def test_positions_never_change_between_releases() -> None:
    assert position("salt", "device") == 40.900238267341294


def test_waves_count_from_their_time_on() -> None:
    waves = (
        Wave(percentage=10, not_before=NOW),
        Wave(percentage=50, not_before=NOW + timedelta(days=1)),
        # Without a zone UTC is meant.
        Wave(percentage=100, not_before=(NOW + timedelta(days=2)).replace(tzinfo=None)),
    )
    rollout = Rollout(salt="s", percentage=5, waves=waves)
    times = [NOW - timedelta(seconds=1), NOW, NOW + timedelta(days=1), NOW + timedelta(days=3)]
    assert [share(rollout, time) for time in times] == [5, 10, 50, 100]


def test_the_next_wave_is_told() -> None:
    stable = Choice(models={})
    plain = Deployment(group="g", serial=1, timestamp=NOW, stable=stable)
    waves = tuple(Wave(percentage=10, not_before=NOW + timedelta(hours=hours)) for hours in (2, -1, 1))
    candidate = Candidate(models={}, rollout=Rollout(salt="s", waves=waves))
    rolling = plain.model_copy(update={"candidate": candidate})
    assert next_wave_s(plain, NOW) is None
    assert next_wave_s(rolling, NOW) == (NOW + timedelta(hours=1)).timestamp()
    assert next_wave_s(rolling, NOW + timedelta(hours=2)) is None
