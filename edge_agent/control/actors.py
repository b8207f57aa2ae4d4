"""Who did something, for the journal: the names of this host's users."""

from pathlib import Path
from typing import Final

USERS: Final = Path("/etc/passwd")


def user_name(uid: int, users: Path = USERS) -> str:
    """Return the user's name, `uid:<n>` for one who is not in the host's own list.

    The file alone is read: a directory service that does not answer must not hold up the agent.
    """
    try:
        lines = users.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, *fields = line.split(":")
        if len(fields) > 1 and fields[1] == str(uid):
            return name
    return f"uid:{uid}"


def named(actor: str) -> str:
    """Return an actor as the journal names it, from what serving says: `uid:<n>`, or `tcp`."""
    number = actor.removeprefix("uid:")
    return user_name(int(number)) if number != actor and number.isdecimal() else actor
