import math

from hypothesis import given
from hypothesis import strategies as st

from converters.quantize.search import Found, find_exclusions

LAYERS = tuple(f"layer{index}" for index in range(12))


class Drops:
    """A drop that vanishes once all culprits are in float; counts how often it is asked."""

    def __init__(self, culprits: frozenset[str]) -> None:
        self.culprits = culprits
        self.asked: list[tuple[str, ...]] = []

    def __call__(self, excluded: tuple[str, ...]) -> float:
        self.asked.append(excluded)
        return 10.0 * len(self.culprits - set(excluded))


def found(culprits: frozenset[str], limit: int = 16, max_drop: float = 0.5) -> tuple[Found, Drops]:
    drops = Drops(culprits)
    ranked = [(name, 2.0 if name in culprits else 1.0 / (index + 2)) for index, name in enumerate(LAYERS)]
    return find_exclusions(ranked, drops, max_drop, limit), drops


@given(st.sets(st.sampled_from(LAYERS)))
def test_exactly_the_culprits_are_found(culprits: set[str]) -> None:
    outcome, drops = found(frozenset(culprits))

    assert outcome.fits
    assert set(outcome.excluded) == culprits
    assert outcome.drop == 0
    assert len(drops.asked) == len(set(drops.asked)) <= 2 * 4 + 2 + len(LAYERS)


@given(st.permutations(LAYERS), st.sets(st.sampled_from(LAYERS)), st.integers(1, 12))
def test_a_bad_ranking_still_ends_within_the_limit(order, culprits: set[str], limit: int) -> None:
    drops = Drops(frozenset(culprits))

    outcome = find_exclusions([(name, -index) for index, name in enumerate(order)], drops, 0.5, limit)

    assert outcome.fits == (culprits <= set(order[:limit]))
    assert len(outcome.excluded) <= limit
    assert outcome.drop == drops(outcome.excluded) == min(step.drop for step in outcome.trail)


@given(st.dictionaries(st.sampled_from(LAYERS), st.floats(-1, 20), min_size=12), st.floats(0, 5))
def test_what_is_returned_was_evaluated_even_if_layers_help_each_other(gains: dict[str, float], limit) -> None:
    def drop_of(excluded: tuple[str, ...]) -> float:
        return abs(sum(gains[name] for name in excluded) - 15)

    outcome = find_exclusions(list(gains.items()), drop_of, limit, 12)

    assert outcome.drop == drop_of(outcome.excluded)
    assert outcome.fits == (outcome.drop <= limit)
    assert outcome.fits or outcome.drop == min(step.drop for step in outcome.trail)
    assert [step.drop for step in outcome.trail] == [drop_of(step.excluded) for step in outcome.trail]


def test_a_plain_variant_that_fits_costs_one_evaluation() -> None:
    outcome, drops = found(frozenset())

    assert (outcome.excluded, outcome.fits) == ((), True)
    assert drops.asked == [()]


def test_limit_keeps_the_best_that_was_seen() -> None:
    outcome, _ = found(frozenset(LAYERS[:5]), limit=3)

    assert not outcome.fits
    assert len(outcome.excluded) == 3
    assert outcome.drop == 20.0


def test_drops_that_are_no_numbers_never_fit() -> None:
    outcome = find_exclusions(
        [("a", 2.0), ("b", 1.0)], lambda excluded: 0.0 if len(excluded) == 2 else math.nan, 1, 2
    )

    assert (outcome.excluded, outcome.drop, outcome.fits) == (("a", "b"), 0.0, True)


def test_progress_ends_at_one_and_never_falls() -> None:
    heard: list[float] = []
    drops = Drops(frozenset(LAYERS[2:5]))

    find_exclusions([(name, 1.0) for name in LAYERS], drops, 0.5, 16, heard.append)

    assert heard == sorted(heard)
    assert heard[-1] == 1.0
