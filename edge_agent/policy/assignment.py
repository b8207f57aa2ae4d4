"""Which arm of a model answers a request, and which bucket its unit is counted in.

A unit is given to an arm by weighted rendezvous hashing: each arm draws a number for the unit, from a hash
keyed with the experiment's salt and the arm's name, and the arm with the best draw for its weight has the unit.
So an assignment needs no table, is the same on every device and after every restart, and when weights change
only as many units move as must: none between two arms whose weights stay in proportion to each other.

Sources: D. Thaler, C. Ravishankar, "A Name-Based Mapping Scheme for Rendezvous" (1996); the weights after
J. Schindelhauer, G. Schomaker, "Weighted Distributed Hash Tables" (2005): -w / ln(u) is largest with
probability w / sum(w), for u uniform in (0, 1).
"""

import hashlib
import math
from collections.abc import Sequence
from typing import Any, Final

from edge_agent.documents.errors import RequestError
from edge_agent.documents.plan import ArmPlan

BUCKETS: Final = 64
FALLBACK: Final = "fallback"
"""The arm of an answer by another version than that of the assigned arm, which is not served here."""
DIRECT: Final = "direct"
"""The arm of an answer by a version that the request named itself."""
NOT_ARMS: Final = frozenset({FALLBACK, DIRECT})
"""Answers under these names were not assigned by chance: no analysis may compare them."""

UNIT_LIMIT_BYTES: Final = 256
_BUCKET_PURPOSE: Final = b"edge unit bucket"


class Lottery:
    """The arms that units of one model are given to."""

    def __init__(self, salt: str, arms: Sequence[ArmPlan]) -> None:
        """Raises ValueError without arms; `salt` keeps the assignments of two experiments independent."""
        if not arms:
            raise ValueError("there is no arm to assign to")
        # A salt may be longer than a BLAKE2b key.
        key = hashlib.blake2b(salt.encode(), digest_size=32).digest()
        self.arms = tuple(arms)
        self._weights = tuple(arm.weight for arm in arms)
        self._total = sum(self._weights)
        self._keyed = [
            (-arm.weight, hashlib.blake2b(arm.name.encode(), digest_size=32, key=key).digest()) for arm in arms
        ]

    def arm_of(self, unit: str) -> int:
        """Return the index of the unit's arm."""
        if len(self.arms) == 1:
            return 0
        content = unit.encode()
        best, best_score = 0, -math.inf
        for index, (negative_weight, key) in enumerate(self._keyed):
            digest = hashlib.blake2b(content, digest_size=8, key=key).digest()
            # 53 bits fill a double's mantissa; the half keeps the draw off 0 and 1.
            draw = ((int.from_bytes(digest) >> 12) + 0.5) / 2**52
            score = negative_weight / math.log(draw)
            if score > best_score:
                best, best_score = index, score
        return best

    def draw(self, point: float) -> int:
        """Return the index of the arm in whose share of [0, 1) a random point falls."""
        reach = point * self._total
        for index, weight in enumerate(self._weights):
            if reach < weight:
                return index
            reach -= weight
        # Rounding can carry the last point over the sum.
        return len(self._weights) - 1


def bucket_of(unit: str) -> int:
    """Return the unit's bucket, 0 to 63.

    It depends on nothing but the unit: so it is independent of the arm, and the same before, during and after
    an experiment, which is what an analysis with covariates needs.
    """
    return hashlib.blake2b(unit.encode(), digest_size=1, person=_BUCKET_PURPOSE).digest()[0] % BUCKETS


def unit_of(parameter: Any, header: bytes | None) -> str | None:
    """Return the unit that a request names, or None; the parameter wins over the header.

    A whole number and the same number as text are the same unit. Raises RequestError for one that is neither,
    empty, or longer than 256 bytes.
    """
    if parameter is None:
        if header is None:
            return None
        return _checked(_text(header), "The header Edge-Unit")
    if isinstance(parameter, bool) or not isinstance(parameter, str | int):
        raise RequestError("The parameter unit must be text or a whole number.")
    if isinstance(parameter, int) and abs(parameter) >= 2**64:
        raise RequestError("The parameter unit must have at most 64 bits where it is a number; send text.")
    return _checked(str(parameter), "The parameter unit")


def _text(header: bytes) -> str:
    try:
        return header.decode()
    except UnicodeDecodeError as error:
        raise RequestError("The header Edge-Unit must be UTF-8.") from error


def _checked(unit: str, what: str) -> str:
    try:
        size = len(unit.encode())
    except UnicodeEncodeError as error:
        raise RequestError(f"{what} must be valid Unicode.") from error
    if not 1 <= size <= UNIT_LIMIT_BYTES:
        raise RequestError(f"{what} must have 1 to {UNIT_LIMIT_BYTES} bytes, not {size}.")
    return unit
