"""Names that no two parts of a model share. Pure."""

import itertools
from collections.abc import Sequence


def unused(name: str, taken: set[str]) -> str:
    """Return the name, with a number appended if it is taken, and take it."""
    candidates = itertools.chain([name], (f"{name}_{number}" for number in itertools.count(1)))
    found = next(one for one in candidates if one not in taken)
    taken.add(found)
    return found


def distinct(names: Sequence[str], taken: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the names, those that occur before or in `taken` with a number appended."""
    used = set(taken)
    return tuple(unused(name, used) for name in names)
