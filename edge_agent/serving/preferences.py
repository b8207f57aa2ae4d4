"""The header Prefer. Source: RFC 7240."""

import re
from typing import Final

RESPOND_ASYNC: Final = "respond-async"
WAIT: Final = "wait"

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_WORD: Final = rb"(" + _TOKEN + rb"|\"(?:[^\"\\]|\\.)*\")"
_PREFERENCE: Final = re.compile(
    rb"[\s,]*(" + _TOKEN + rb")(?:[ \t]*=[ \t]*" + _WORD + rb"?)?"
    rb"((?:[ \t]*;(?:[ \t]*" + _TOKEN + rb"(?:[ \t]*=[ \t]*" + _WORD + rb"?)?)?)*)[ \t]*(?=,|$)",
    re.DOTALL,
)
_ESCAPED: Final = re.compile(rb"\\(.)", re.DOTALL)
_NUMBER: Final = re.compile(r"[0-9]{1,9}")


def preferences(header: bytes) -> dict[str, str]:
    """Return the values of what is preferred, by names in lower case; empty for those without one.

    The first of several with one name counts; parameters, and what follows something malformed, do not.
    """
    found: dict[str, str] = {}
    position = 0
    while (match := _PREFERENCE.match(header, position)) is not None:
        value = match[2] or b""
        if value.startswith(b'"'):
            value = _ESCAPED.sub(rb"\1", value[1:-1])
        found.setdefault(match[1].decode("latin-1").lower(), value.decode("latin-1"))
        position = match.end()
    return found


def is_async(header: bytes) -> bool:
    """Say whether the answer may come later."""
    return preferences(header).get(RESPOND_ASYNC) == ""


def wait_s(header: bytes) -> int:
    """Return how many seconds the client prefers to wait; 0 where it says nothing of that."""
    value = preferences(header).get(WAIT, "")
    return int(value) if _NUMBER.fullmatch(value) else 0
