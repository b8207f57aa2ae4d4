"""The header Prefer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.serving.preferences import Preferences, preferences


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        (None, Preferences()),
        (b"", Preferences()),
        (b"respond-async", Preferences(respond_async=True)),
        (b"Respond-Async, wait=10", Preferences(True, 10)),
        (b'wait="5"', Preferences(wait_s=5)),
        (b"return=minimal; foo, respond-async; bar", Preferences(respond_async=True)),
        (b"wait=1, wait=9", Preferences(wait_s=1)),
        (b"wait=100000", Preferences(wait_s=60)),
        (b"wait=-1", Preferences()),
        (b"wait=soon", Preferences()),
        (b"x-respond-async", Preferences()),
        (b"respond-async=no", Preferences()),
        (b'respond-async="", wait = "5" ; q=1;z', Preferences(True, 5)),
        (b'foo="bar, respond-async", wait=7', Preferences(wait_s=7)),
        (b'foo="\\", respond-async", wait=7', Preferences(wait_s=7)),
        (b'foo;bar="a,b";;baz, respond-async', Preferences(respond_async=True)),
        (b",, respond-async ,", Preferences(respond_async=True)),
        (b'foo="open, respond-async', Preferences()),
    ],
)
def test_what_a_client_prefers(header: bytes | None, wanted: Preferences) -> None:
    assert preferences(header) == wanted


@given(st.binary(max_size=60))
def test_garbage_is_ignored(header: bytes) -> None:
    found = preferences(header)
    assert 0 <= found.wait_s <= 60
