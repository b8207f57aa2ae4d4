import paho.mqtt.client as mqtt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.documents.errors import SettingsError
from edge_agent.documents.mqtt_url import broker_address
from edge_agent.documents.topics import is_filter, matches
from edge_agent.policy.backoff import CAP_S, reconnect_delay_s, rival_delay_s

LEVELS = st.lists(st.sampled_from(["a", "b", ""]), min_size=1, max_size=4)
PATTERNS = st.lists(st.sampled_from(["a", "b", "+", ""]), min_size=1, max_size=4)


@given(PATTERNS, st.booleans(), LEVELS)
def test_filters_match_as_paho_has_it(pattern: list[str], is_open: bool, levels: list[str]) -> None:
    wanted = "/".join([*pattern, "#"] if is_open else pattern)
    topic = "/".join(levels)
    if wanted and topic:
        assert is_filter(wanted)
        assert matches(wanted, topic) == mqtt.topic_matches_sub(wanted, topic)


@pytest.mark.parametrize("text", ["", "a+/b", "#/a", "a/#b", "a\0"])
def test_what_is_no_filter(text: str) -> None:
    assert not is_filter(text)


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("mqtt://broker", "mqtt://broker:1883"),
        ("mqtts://broker/", "mqtts://broker:8883"),
        ("mqtts://10.0.0.1:443", "mqtts://10.0.0.1:443"),
        ("mqtt://[::1]:1884", "mqtt://[::1]:1884"),
    ],
)
def test_addresses(url: str, wanted: str) -> None:
    assert str(broker_address(url)) == wanted


@pytest.mark.parametrize(
    "url",
    [
        "",
        "broker",
        "http://broker",
        "mqtt://",
        "mqtt://b:0",
        "mqtt://b:x",
        "mqtt://u:p@b",
        "mqtt://b/p",
        "mqtt://[",
    ],
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(SettingsError, match="no address of a broker"):
        broker_address(url)


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_delays_grow_up_to_a_cap(failures: int, jitter: float) -> None:
    assert 0 < reconnect_delay_s(failures, jitter) <= reconnect_delay_s(failures + 1, jitter) <= CAP_S
    assert rival_delay_s(failures, jitter) >= 15
