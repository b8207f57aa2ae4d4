"""Assignment: shares follow the weights, and units stay where they are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.documents.errors import RequestError
from edge_agent.documents.plan import ArmPlan
from edge_agent.policy.assignment import BUCKETS, Lottery, bucket_of, unit_of

UNITS = [f"unit-{number}" for number in range(400)]
WEIGHTS = st.floats(0.01, 100)
NAMED = st.dictionaries(st.sampled_from("abcdefgh"), WEIGHTS, min_size=1)


def lottery(weights: dict[str, float], salt: str = "salt") -> Lottery:
    return Lottery(salt, [ArmPlan(name, f"v-{name}", weight) for name, weight in weights.items()])


def assigned(weights: dict[str, float], salt: str = "salt") -> dict[str, str]:
    drawn = lottery(weights, salt)
    return {unit: drawn.arms[drawn.arm_of(unit)].name for unit in UNITS}


@given(NAMED, WEIGHTS)
def test_a_changed_weight_moves_units_only_to_or_from_that_arm(weights: dict[str, float], new: float) -> None:
    changed = min(weights)
    before, after = assigned(weights), assigned({**weights, changed: new})
    gains = new > weights[changed]
    for unit in UNITS:
        if before[unit] != after[unit]:
            assert (after if gains else before)[unit] == changed


@given(NAMED)
def test_a_new_arm_takes_units_and_moves_no_other(weights: dict[str, float]) -> None:
    before, after = assigned(weights), assigned({**weights, "new": 1.0})
    assert all(after[unit] in (before[unit], "new") for unit in UNITS)


@given(NAMED, st.floats(0.1, 10))
def test_neither_order_nor_scale_of_the_weights_matters(weights: dict[str, float], scale: float) -> None:
    other = {name: weight * scale for name, weight in reversed(weights.items())}
    # Rounding could move a unit that sits on the edge; none of these does.
    moved = sum(
        before != after
        for before, after in zip(assigned(weights).values(), assigned(other).values(), strict=True)
    )
    assert moved <= 1


@pytest.mark.parametrize(
    "weights", [{"a": 1.0, "b": 1.0}, {"a": 3.0, "b": 1.0}, {"a": 5.0, "b": 3.0, "c": 2.0}]
)
def test_shares_follow_the_weights(weights: dict[str, float]) -> None:
    drawn = lottery(weights)
    count = 20_000
    arms = [drawn.arms[drawn.arm_of(str(number))].name for number in range(count)]
    for name, weight in weights.items():
        share = weight / sum(weights.values())
        # Five standard deviations: a fixed set of units, so this passes always or never.
        assert abs(arms.count(name) / count - share) < 5 * (share * (1 - share) / count) ** 0.5


def test_another_salt_assigns_independently() -> None:
    one, other = assigned({"a": 1, "b": 1}, "one"), assigned({"a": 1, "b": 1}, "other")
    agreeing = sum(one[unit] == other[unit] for unit in UNITS) / len(UNITS)
    assert 0.35 < agreeing < 0.65


def test_buckets_are_even_and_independent_of_the_arm() -> None:
    drawn = lottery({"a": 1, "b": 1})
    counts = [[0, 0] for _ in range(BUCKETS)]
    count = 64_000
    for number in range(count):
        unit = str(number)
        counts[bucket_of(unit)][drawn.arm_of(unit)] += 1
    # Pearson's statistic of 64 x 2 equally likely cells; 127 degrees of freedom, 200 is beyond the 99.99 %.
    expected = count / BUCKETS / 2
    assert sum((n - expected) ** 2 / expected for row in counts for n in row) < 200


def test_an_assignment_is_the_same_for_ever() -> None:
    """Devices and agent versions must agree: these were computed once and may not change."""
    drawn = lottery({"a": 1, "b": 2})
    assert [drawn.arm_of(f"unit-{n}") for n in range(12)] == [0, 1, 1, 0, 1, 1, 0, 1, 1, 1, 1, 1]
    assert [bucket_of(f"unit-{n}") for n in range(6)] == [3, 63, 17, 39, 25, 21]


def test_a_point_falls_in_the_share_of_an_arm() -> None:
    drawn = lottery({"a": 1, "b": 2, "c": 1})
    assert [drawn.draw(point) for point in (0.0, 0.2, 0.25, 0.74, 0.75, 1 - 2**-53)] == [0, 0, 1, 1, 2, 2]


def test_there_must_be_an_arm() -> None:
    with pytest.raises(ValueError, match="no arm"):
        Lottery("salt", [])


@pytest.mark.parametrize(
    ("parameter", "header", "unit"),
    [
        (None, None, None),
        ("käse", b"other", "käse"),
        (7, None, "7"),
        (-(2**63), None, str(-(2**63))),
        (None, b"7", "7"),
        (None, "käse".encode(), "käse"),
        ("x" * 256, None, "x" * 256),
    ],
)
def test_the_unit_of_a_request(parameter: object, header: bytes | None, unit: str | None) -> None:
    assert unit_of(parameter, header) == unit


@pytest.mark.parametrize(
    ("parameter", "header", "message"),
    [
        (True, None, "text or a whole number"),
        (1.5, None, "text or a whole number"),
        (["a"], None, "text or a whole number"),
        ("", b"a", "1 to 256 bytes, not 0"),
        ("ä" * 129, None, "1 to 256 bytes, not 258"),
        ("\ud800", None, "valid Unicode"),
        (2**64, None, "64 bits"),
        (None, b"", "Edge-Unit must have 1 to 256 bytes"),
        (None, b"\xff", "UTF-8"),
    ],
)
def test_what_cannot_be_a_unit(parameter: object, header: bytes | None, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        unit_of(parameter, header)
