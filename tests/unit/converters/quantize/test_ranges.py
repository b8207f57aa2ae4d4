import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from converters.errors import ConversionError
from converters.quantize import ranges
from converters.quantize.settings import QuantizeSettings

floats = hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-1e6, 1e6, width=32))
batches = st.lists(floats, min_size=1, max_size=5)
methods = st.sampled_from(["minmax", "entropy", "percentile"])


def observed(arrays: list[np.ndarray]) -> ranges.Histogram:
    return ranges.observe(lambda: [{"t": array} for array in arrays])["t"]


@given(batches)
def test_every_value_is_counted_once_and_the_extremes_are_exact(arrays: list[np.ndarray]) -> None:
    everything = np.concatenate(arrays)

    found = observed(arrays)

    assert found.counts.sum() == everything.size
    assert (found.minimum, found.maximum) == (everything.min(), everything.max())
    width = 2 * found.limit / ranges.BINS
    assert found.deviation == pytest.approx(float(np.std(everything.astype(np.float64))), abs=width + 1e-6)


@given(batches)
def test_order_of_samples_does_not_matter(arrays: list[np.ndarray]) -> None:
    one, other = observed(arrays), observed(arrays[::-1])

    assert (one.minimum, one.maximum) == (other.minimum, other.maximum)
    np.testing.assert_array_equal(one.counts, other.counts)


@given(batches, methods, st.floats(51, 100))
def test_chosen_range_lies_within_the_extremes(arrays: list[np.ndarray], method, percentile: float) -> None:
    found = observed(arrays)

    low, high = ranges.chosen(found, QuantizeSettings(calibration=method, percentile=percentile))

    assert found.minimum <= low <= high <= found.maximum
    assert max(abs(low), abs(high)) <= found.limit


@given(batches, st.floats(51, 100))
def test_percentile_keeps_the_share_that_was_asked_for(arrays: list[np.ndarray], percentile: float) -> None:
    magnitudes = np.abs(np.concatenate(arrays).astype(np.float64))

    low, high = ranges.chosen(
        observed(arrays), QuantizeSettings(calibration="percentile", percentile=percentile)
    )

    width = 2 * magnitudes.max() / ranges.BINS
    inside = np.mean(magnitudes <= max(abs(low), abs(high)) + width)
    assert inside >= percentile / 100 - 1e-9


def test_entropy_cuts_a_lonely_outlier_and_keeps_an_even_spread() -> None:
    random = np.random.default_rng(0)
    bulk = random.normal(0, 1, 20_000).astype(np.float32)
    entropy = QuantizeSettings(calibration="entropy")

    low, high = ranges.chosen(observed([bulk, np.float32([200])]), entropy)
    even = ranges.chosen(observed([random.uniform(-1, 1, 20_000).astype(np.float32)]), entropy)

    assert 3 < high < 100
    assert low == pytest.approx(bulk.min())
    assert even == pytest.approx((-1, 1), abs=0.1)


def test_values_after_a_relu_are_not_outweighed_by_its_zeros() -> None:
    random = np.random.default_rng(0)
    values = np.maximum(random.normal(-2, 1, 50_000), 0).astype(np.float32)

    low, high = ranges.chosen(observed([values]), QuantizeSettings(calibration="entropy"))

    assert low == 0
    assert high > np.percentile(values[values > 0], 90)


def test_nan_is_named_with_its_sample() -> None:
    with pytest.raises(ConversionError, match=r"sample 1 makes tensor 't' NaN"):
        observed([np.float32([1]), np.float32([np.nan])])


def test_infinite_and_empty_tensors_have_no_range() -> None:
    sample = {"mask": np.float32([0, -np.inf]), "none": np.float32([]), "real": np.float32([1, 2])}

    assert ranges.observe(lambda: [sample]).keys() == {"real"}


@given(batches, methods)
def test_what_is_shown_holds_every_value_between_growing_edges(arrays: list[np.ndarray], method) -> None:
    shown = ranges.shown("t", observed(arrays), QuantizeSettings(calibration=method))

    assert sum(shown.counts) == sum(array.size for array in arrays)
    assert len(shown.edges) == len(shown.counts) + 1
    assert all(one < other for one, other in zip(shown.edges, shown.edges[1:], strict=False))
    assert len(shown.counts) <= 65


def test_ends_come_first_then_what_is_wide_for_its_deviation() -> None:
    random = np.random.default_rng(0)
    even = random.uniform(-1, 1, 1000).astype(np.float32)
    tensors = {"a": even, "b": np.append(even, np.float32(500)), "in": even, "out": even}
    found = ranges.observe(lambda: [tensors])

    assert ranges.telling(found, ["in", "out", "in", "gone"], 3) == ["in", "out", "b"]
