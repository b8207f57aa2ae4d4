"""How fast a download is."""

import pytest

from edge_agent.policy.transfer_rate import WINDOW_S, TransferRate, eta_s


def seen(*samples: tuple[float, int]) -> TransferRate:
    rate = TransferRate(((0.0, 0),))
    for now_s, done in samples:
        rate = rate.seen(now_s, done)
    return rate


def test_the_rate_is_that_of_the_last_seconds() -> None:
    assert seen().bytes_per_s == 0.0
    assert seen((0.0, 100)).bytes_per_s == 0.0
    assert seen((0.4, 10_000_000)).bytes_per_s == 0.0
    assert seen((2.0, 2000)).bytes_per_s == 1000.0
    fast_then_slow = [(float(second), 1_000_000) for second in range(1, 10)]
    assert seen(*fast_then_slow, (30.0, 1_001_000)).bytes_per_s < 1000


def test_few_samples_are_kept() -> None:
    rate = seen(*((step / 100, step) for step in range(10_000)))
    assert len(rate.samples) <= WINDOW_S + 2
    assert rate.bytes_per_s == pytest.approx(100.0)


def test_the_time_that_is_left() -> None:
    assert eta_s(100, 300, 50.0) == 4.0
    assert eta_s(300, 300, 0.0) == 0.0
    assert eta_s(100, 300, 0.0) is None
    assert eta_s(0, 0, 10.0) is None
