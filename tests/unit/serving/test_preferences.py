"""The header Prefer as RFC 7240 has it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.serving.preferences import is_async, preferences, wait_s


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (b"respond-async", {"respond-async": ""}),
        (b"Respond-Async", {"respond-async": ""}),
        (b"respond-async, wait=10", {"respond-async": "", "wait": "10"}),
        (b'wait = "10" , respond-async', {"wait": "10", "respond-async": ""}),
        (b'handling=lenient; foo; bar="a,b", respond-async; x=1', {"handling": "lenient", "respond-async": ""}),
        (b'foo="respond-async, \\"x\\"", wait=1', {"foo": 'respond-async, "x"', "wait": "1"}),
        (b"wait=1, wait=2", {"wait": "1"}),
        (b"foo; respond-async", {"foo": ""}),
        (b",, respond-async ,", {"respond-async": ""}),
        (b'foo=, bar=""', {"foo": "", "bar": ""}),
        (b"", {}),
        (b"@, respond-async", {}),
        (b'foo="open, respond-async', {}),
    ],
)
def test_preferences(header: bytes, found: dict[str, str]) -> None:
    assert preferences(header) == found


@pytest.mark.parametrize(
    ("header", "is_so", "seconds"),
    [
        (b"respond-async", True, 0),
        (b"RESPOND-ASYNC;x, wait=7", True, 7),
        (b"respond-async=no, wait=x", False, 0),
        (b"not-respond-async, wait=-1", False, 0),
        (b'wait="30"', False, 30),
        (b"wait=1234567890", False, 0),
    ],
)
def test_what_is_preferred(header: bytes, is_so: bool, seconds: int) -> None:
    assert (is_async(header), wait_s(header)) == (is_so, seconds)


_TOKENS = st.text("abcXYZ019-_.!~", min_size=1, max_size=8)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


@given(st.dictionaries(_TOKENS.map(str.lower), st.text(st.characters(min_codepoint=32, max_codepoint=126))))
def test_what_is_written_is_read(wanted: dict[str, str]) -> None:
    header = " , ".join(f"{name}={_quoted(value)} ; q = 1;z" for name, value in wanted.items())
    assert preferences(header.encode()) == wanted


@given(st.binary(max_size=200))
def test_anything_is_read(header: bytes) -> None:
    assert all(name == name.lower() for name in preferences(header))
    wait_s(header)
