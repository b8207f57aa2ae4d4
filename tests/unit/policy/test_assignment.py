import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.policy.assignment import pick

weights = st.lists(st.floats(0.001, 1000), min_size=1, max_size=16)
points = st.floats(0, 1, exclude_max=True)


@given(weights, points)
def test_the_arm_is_the_one_whose_share_holds_the_point(weights, point):
    index = pick(weights, point)
    total = sum(weights)
    below = sum(weights[:index]) / total
    assert below - 1e-9 <= point <= below + weights[index] / total + 1e-9


@given(weights, points, st.floats(0.01, 100))
def test_only_the_proportions_matter(weights, point, factor):
    scaled = [weight * factor for weight in weights]
    assert abs(pick(weights, point) - pick(scaled, point)) <= 1


def test_shares_are_in_proportion():
    counts = [0, 0, 0]
    for step in range(1000):
        counts[pick([1, 3, 6], step / 1000)] += 1
    assert counts == [100, 300, 600]


def test_without_arms_there_is_nothing_to_pick():
    with pytest.raises(ValueError, match="no arm"):
        pick([], 0.5)
