"""The schedule of magnitude pruning, and which weights and channels go. Pure.

Source: Zhu and Gupta, "To prune, or not to prune" (2017), arXiv:1710.01878, equation 1.
"""

import math

import numpy as np
from numpy.typing import NDArray

from converters.arrays import Array
from converters.prune.settings import PruneSettings


def sparsity_at(step: int, settings: PruneSettings) -> float:
    """Return the share of weights that is zero at a training step, counted from 0."""
    if step < settings.begin_step:
        return 0.0
    span = max(1, settings.end_step - settings.begin_step)
    left = 1.0 - min(1.0, (step - settings.begin_step) / span)
    first, last = settings.initial_sparsity, settings.final_sparsity
    return last + (first - last) * math.pow(left, settings.power)


def updates_at(step: int, settings: PruneSettings) -> bool:
    """Say whether the masks are computed anew at a step; always at the last one of the schedule."""
    if not settings.begin_step <= step <= settings.end_step:
        return False
    return step == settings.end_step or (step - settings.begin_step) % settings.frequency == 0


def steps_of(settings: PruneSettings) -> int:
    """Return how many steps the fine-tuning has; the last masks get some to recover from."""
    return max(settings.steps or settings.end_step + settings.end_step // 2, settings.end_step + 1)


def magnitude_mask(weights: Array, sparsity: float) -> NDArray[np.bool_]:
    """Return which weights stay: all but this share, those of the smallest magnitudes."""
    count = round(sparsity * weights.size)
    mask = np.ones(weights.size, dtype=bool)
    mask[np.argsort(np.abs(weights), axis=None, kind="stable")[:count]] = False
    return mask.reshape(weights.shape)


def kept_channels(weights: Array, axis: int, sparsity: float) -> NDArray[np.intp]:
    """Return the positions along `axis` that stay, in order: the largest sums of magnitudes, at least one."""
    others = tuple(index for index in range(weights.ndim) if index != axis % weights.ndim)
    sums = np.abs(weights).sum(axis=others)
    keep = max(1, sums.size - round(sparsity * sums.size))
    return np.sort(np.argsort(-sums, kind="stable")[:keep])
