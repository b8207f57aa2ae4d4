"""The header Prefer. Source: RFC 7240."""

from typing import Final

import msgspec

_LONGEST_WAIT_S: Final = 60


class Preferences(msgspec.Struct, frozen=True, gc=False):
    """What a client would rather have: an answer later, or to wait so many seconds for it at most."""

    respond_async: bool = False
    wait_s: int = 0


def preferences(header: bytes | None) -> Preferences:
    """Return what the header asks for; what is unknown or malformed in it is ignored, as the RFC has it."""
    if header is None:
        return Preferences()
    wants: dict[str, str] = {}
    for entry in header.decode("latin-1").split(","):
        name, _, value = entry.partition(";")[0].partition("=")
        wants.setdefault(name.strip().lower(), value.strip().strip('"'))
    wait = wants.get("wait", "")
    wait_s = min(int(wait), _LONGEST_WAIT_S) if wait.isdecimal() and wait.isascii() and len(wait) < 10 else 0
    return Preferences("respond-async" in wants, wait_s)
