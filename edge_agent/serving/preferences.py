"""The header Prefer. Source: RFC 7240."""

import re
from typing import Final

import msgspec

_LONGEST_WAIT_S: Final = 60

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_VALUE: Final = rb"(?:[ \t]*=[ \t]*(" + _TOKEN + rb"|\"(?:[^\"\\]|\\.)*\")?)?"
_PREFERENCE: Final = re.compile(
    rb"[ \t,]*(" + _TOKEN + rb")" + _VALUE + rb"(?:[ \t]*;(?:[ \t]*" + _TOKEN + _VALUE + rb")?)*[ \t]*(?=,|$)",
    re.DOTALL,
)
_SECONDS: Final = re.compile(rb"\"?([0-9]{1,9})\"?")


class Preferences(msgspec.Struct, frozen=True, gc=False):
    """What a client would rather have: an answer later, or to wait so many seconds for it at most."""

    respond_async: bool = False
    wait_s: int = 0


def preferences(header: bytes | None) -> Preferences:
    """Return what the header asks for; what is unknown is ignored, and all from where it is malformed.

    Of several with one name the first counts.
    """
    if header is None:
        return Preferences()
    wants: dict[bytes, bytes] = {}
    position = 0
    while (match := _PREFERENCE.match(header, position)) is not None:
        wants.setdefault(match[1].lower(), match[2] or b"")
        position = match.end()
    wait = _SECONDS.fullmatch(wants.get(b"wait", b""))
    is_async = wants.get(b"respond-async") in (b"", b'""')
    return Preferences(is_async, 0 if wait is None else min(int(wait[1]), _LONGEST_WAIT_S))
