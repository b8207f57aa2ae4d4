"""Which of a model's versions answers a request."""

from collections.abc import Sequence


def pick(weights: Sequence[float], point: float) -> int:
    """Return the index of the arm in whose share of [0, 1) the point falls.

    `weights` are positive and relative to each other; the arms' shares lie side by side in the given order, so
    that equal points choose equally for as long as the weights stay. Raises ValueError without arms.
    """
    if not weights:
        raise ValueError("there is no arm to pick from")
    reach = point * sum(weights)
    for index, weight in enumerate(weights):
        if reach < weight:
            return index
        reach -= weight
    # Rounding can carry the last point over the sum.
    return len(weights) - 1
