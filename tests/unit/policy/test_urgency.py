"""What waits for no window."""

from edge_agent.documents.plan import Plan, VersionPlan, with_id
from edge_agent.policy.reconcile import identity
from edge_agent.policy.urgency import is_urgent


def plan(*names: str) -> Plan:
    versions = [VersionPlan("m", name, "onnx", "fp32", name * 64, f"/{name}", 1, (), ()) for name in names]
    return with_id(Plan("", "stable", "default", 1, tuple(versions)))


def test_another_version_can_wait() -> None:
    assert not is_urgent(plan("2"), plan("1"), None, ())
    assert not is_urgent(plan("3"), plan("2"), plan("1"), {"f" * 64})


def test_the_first_version_is_urgent() -> None:
    assert is_urgent(plan("1"), Plan(), None, ())


def test_what_served_before_is_urgent() -> None:
    assert is_urgent(plan("1"), plan("2"), plan("1"), ())
    assert not is_urgent(plan("1", "3"), plan("2"), plan("1"), ())


def test_what_was_gone_back_from_is_not() -> None:
    left = plan("2")
    assert not is_urgent(plan("2"), plan("1"), left, (), identity(left))
    assert is_urgent(plan("2"), plan("1"), left, (), "default/9/stable")


def test_the_replacement_of_what_is_in_quarantine_is_urgent() -> None:
    assert is_urgent(plan("3"), plan("2"), plan("1"), {"2" * 64})
