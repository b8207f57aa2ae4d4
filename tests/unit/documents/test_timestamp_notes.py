from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from edge_agent.documents.timestamp_notes import newest_root, signed_at, timestamp_notes


def test_notes_are_read_as_they_were_written() -> None:
    berlin = timezone(timedelta(hours=1))
    notes = timestamp_notes(datetime(2026, 11, 25, 13, 0, 1, 999, tzinfo=berlin), 4)
    assert signed_at(notes) == datetime(2026, 11, 25, 12, 0, 1, tzinfo=UTC)
    assert newest_root(notes) == 4


@pytest.mark.parametrize(
    "value", [None, 5, "", "soon", "2026-11-25T12:00:00", ["2026"], "0001-01-01T00:00:00+09:00"]
)
def test_what_is_no_time_is_none(value: Any) -> None:
    assert signed_at({"x-edge-agent-signed": value}) is None
    assert signed_at({}) is None


@pytest.mark.parametrize("value", [None, "4", 4.0, [4]])
def test_what_is_no_version_is_none(value: Any) -> None:
    assert newest_root({"x-edge-agent-root": value}) is None
    assert newest_root({}) is None
