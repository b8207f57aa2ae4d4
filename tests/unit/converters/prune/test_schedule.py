"""Properties of the schedule and the masks, whatever the settings and weights."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from converters.prune.schedule import kept_channels, magnitude_mask, sparsity_at, steps_of, updates_at
from converters.prune.settings import PruneSettings

SHARES = st.floats(0, 0.99)


@st.composite
def schedules(draw: st.DrawFn) -> PruneSettings:
    begin = draw(st.integers(0, 200))
    first, last = sorted((draw(SHARES), draw(SHARES)))
    return PruneSettings(
        initial_sparsity=first,
        final_sparsity=last,
        begin_step=begin,
        end_step=begin + draw(st.integers(1, 300)),
        power=draw(st.floats(0.1, 8)),
        frequency=draw(st.integers(1, 150)),
        steps=draw(st.none() | st.integers(1, 1000)),
    )


WEIGHTS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=4, max_side=6),
    elements=st.floats(-100, 100, width=32),
)


@given(schedules(), st.integers(0, 600))
def test_the_sparsity_only_grows_between_its_ends(settings: PruneSettings, step: int) -> None:
    now, later = sparsity_at(step, settings), sparsity_at(step + 1, settings)
    if step < settings.begin_step:
        assert now == 0
    else:
        assert settings.initial_sparsity - 1e-9 <= now <= settings.final_sparsity + 1e-9
        assert now <= later + 1e-9


@given(schedules())
def test_the_schedule_begins_and_ends_as_asked_for(settings: PruneSettings) -> None:
    assert abs(sparsity_at(settings.begin_step, settings) - settings.initial_sparsity) < 1e-9
    assert sparsity_at(settings.end_step, settings) == settings.final_sparsity
    assert updates_at(settings.begin_step, settings)
    assert updates_at(settings.end_step, settings)
    assert not updates_at(settings.end_step + 1, settings)
    assert settings.begin_step == 0 or not updates_at(settings.begin_step - 1, settings)


@given(schedules())
def test_the_fine_tuning_reaches_the_last_update(settings: PruneSettings) -> None:
    updates = [step for step in range(steps_of(settings)) if updates_at(step, settings)]
    assert updates[-1] == settings.end_step
    gaps = np.diff(updates)
    assert (gaps <= settings.frequency).all()
    assert (gaps[:-1] == settings.frequency).all()


@given(WEIGHTS, SHARES)
def test_a_mask_takes_the_smallest_weights_and_no_more(weights: np.ndarray, sparsity: float) -> None:
    mask = magnitude_mask(weights, sparsity)
    assert mask.shape == weights.shape
    assert (~mask).sum() == round(sparsity * weights.size)
    if mask.any() and not mask.all():
        assert np.abs(weights[~mask]).max() <= np.abs(weights[mask]).min()


@given(WEIGHTS, SHARES, SHARES)
def test_what_is_masked_stays_masked_as_the_sparsity_grows(
    weights: np.ndarray, first: float, second: float
) -> None:
    low, high = sorted((first, second))
    before = magnitude_mask(weights, low)
    after = magnitude_mask(np.where(before, weights, 0), high)
    assert np.count_nonzero(np.where(after, np.where(before, weights, 0), 0)) <= after.sum()
    assert after.sum() == weights.size - round(high * weights.size)


@given(WEIGHTS, SHARES, st.integers(-4, 3))
def test_the_kept_channels_are_the_largest_in_order(weights: np.ndarray, sparsity: float, axis: int) -> None:
    axis %= weights.ndim
    kept = kept_channels(weights, axis, sparsity)
    sums = np.abs(np.moveaxis(weights, axis, 0)).reshape(weights.shape[axis], -1).sum(axis=1)
    assert len(kept) == max(1, weights.shape[axis] - round(sparsity * weights.shape[axis]))
    assert (np.diff(kept) > 0).all()
    gone = np.delete(sums, kept)
    assert not gone.size or gone.max() <= sums[kept].min() * (1 + 1e-5) + 1e-6
