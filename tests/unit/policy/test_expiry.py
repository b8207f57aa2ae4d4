from datetime import UTC, datetime, timedelta

from edge_agent.policy.expiry import is_due, lifetime, warnings
from edge_agent.policy.trusted_time import Times

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def test_a_role_is_due_in_the_last_third_of_its_life() -> None:
    for role in ("root", "targets", "snapshot", "timestamp", "m-digits"):
        assert not is_due(role, NOW + lifetime(role) / 3, NOW)
        assert is_due(role, NOW + lifetime(role) / 3 - timedelta(seconds=1), NOW)
    assert lifetime("m-digits") == lifetime("deployments") == lifetime("targets")


def test_warnings_name_role_date_and_remedy_the_most_urgent_first() -> None:
    expires = {"root": NOW + timedelta(days=300), "targets": NOW + timedelta(days=9), "timestamp": NOW}
    first, second = warnings({role: time.timestamp() for role, time in expires.items()}, Times(NOW))
    assert "timestamp metadata expired on 2026-11-22 12:00 UTC" in first
    assert "(edge-fleet refresh)" in first
    assert "clock" in first
    assert "targets metadata expires on 2026-12-01 12:00 UTC" in second
    assert "(edge-fleet refresh --all)" in second


def test_fresh_metadata_warns_of_nothing() -> None:
    assert warnings({"timestamp": (NOW + timedelta(days=6)).timestamp()}, Times(NOW)) == ()
