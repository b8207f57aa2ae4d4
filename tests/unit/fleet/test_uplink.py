import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.documents.errors import DocumentError
from edge_agent.documents.messages import AbMessage, ArmSums, Event, EventMessage, MetricsMessage, Reported
from edge_agent.documents.topics import Topics
from edge_fleet.uplink import Status, parse_device, read_message

TOPICS = Topics("edge/v1", "f")
REPORTED = Reported("d", "1", "default", 3, "p")
EVENT = EventMessage("e-1", Event("started", 1.0, "It started."))
METRICS = MetricsMessage(2.0, 1.0)
AB = AbMessage("db", 1, "m", "x", 1, {"1": 3}, (ArmSums("1", 0, "correct", 2, 1.0, 1.0),))


def read(levels: str, document: Any) -> object:
    payload = document if isinstance(document, bytes) else msgspec.json.encode(document)
    return read_message(TOPICS, TOPICS.up("d", *levels.split("/")), payload)


@pytest.mark.parametrize(
    ("levels", "document"),
    [("reported", REPORTED), ("event/started", EVENT), ("metrics", METRICS), ("ab/x", AB)],
)
def test_what_devices_send_is_read(levels: str, document: object) -> None:
    assert read(levels, document) == document
    later = {**msgspec.to_builtins(document), "a_field_of_the_future": [1]}
    assert read(levels, later) == document


@pytest.mark.parametrize(("payload", "online"), [(b"online", True), (b'"offline"', False), (b'"online"', True)])
def test_status(payload: bytes, online: bool) -> None:
    assert read("status", payload) == Status(online)


def test_replies_and_raw_outcomes_are_left_alone() -> None:
    assert read("res/1", b"x") is None
    assert read("outcomes/x", b"x") is None


@pytest.mark.parametrize(
    ("levels", "payload", "message"),
    [
        ("status", b"maybe", "neither online nor offline"),
        ("reported", b"", "Invalid JSON"),
        ("reported", b"[" * 100_000, "Invalid JSON"),
        ("reported", b"\xff", "Invalid JSON"),
        ("reported", {}, "Missing required|missing|required"),
        ("reported", msgspec.to_builtins(REPORTED) | {"schema": 2}, "schema"),
        (
            "reported",
            msgspec.to_builtins(REPORTED) | {"device": "other"},
            "'other' is published on the topic of 'd'",
        ),
        ("reported", msgspec.to_builtins(REPORTED) | {"serial": 2**63}, "too large"),
        ("reported", msgspec.to_builtins(REPORTED) | {"serial": -1}, "negative"),
        ("reported", b'{"device": "\\ud800"}', "d800|surrogate|Invalid JSON|missing|Missing"),
        ("event/stopped", EVENT, "'started' is published on the topic of 'stopped'"),
        ("event", EVENT, "nothing is expected"),
        ("unknown", EVENT, "nothing is expected"),
        ("metrics", b'{"time_s": NaN, "started_s": 1}', "float|number"),
        ("metrics", b'{"time_s": 1e999, "started_s": 1}', "float|number"),
        ("ab/y", AB, "'x' is published on the topic of 'y'"),
        ("ab/x", msgspec.to_builtins(AB) | {"exposures": {"1": -1}}, "negative"),
        ("ab/x", msgspec.to_builtins(AB) | {"revision": 10**30}, "."),
    ],
)
def test_what_is_invalid_is_told(levels: str, payload: object, message: str) -> None:
    with pytest.raises(DocumentError, match=message):
        read(levels, payload)


def test_a_topic_that_is_no_devices() -> None:
    assert parse_device(TOPICS, "edge/v1/f/d/down/cmd/sync") is None
    assert parse_device(TOPICS, "edge/v1/f/d/up/status") == "d"
    with pytest.raises(DocumentError, match="not one of a device's"):
        read_message(TOPICS, "edge/v1/f/_group/g/desired", b"")


@given(st.sampled_from(["status", "reported", "event/started", "metrics", "ab/x"]), st.binary(max_size=200))
def test_no_bytes_do_harm(levels: str, payload: bytes) -> None:
    with contextlib.suppress(DocumentError):
        read(levels, payload)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from([("reported", REPORTED), ("event/started", EVENT), ("ab/x", AB)]), st.data())
def test_no_value_in_a_field_does_harm(kind: tuple[str, object], data: st.DataObject) -> None:
    levels, document = kind
    fields = msgspec.to_builtins(document)
    fields[data.draw(st.sampled_from(sorted(fields)))] = data.draw(_JSON)
    try:
        found = read(levels, fields)
    except DocumentError:
        return
    assert msgspec.json.decode(msgspec.json.encode(found), type=type(found)) == found
