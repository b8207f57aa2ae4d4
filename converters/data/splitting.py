"""Which samples calibrate and which evaluate; no sample does both, also when it occurs twice. Pure.

Equal samples go to one side. Where there are classes, each keeps about its share on both sides.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from converters.arrays import Array
from converters.data.samples import Samples, Split
from converters.data.settings import DataSettings
from converters.errors import DataError

SEED: Final = 0
MIN_PER_SPLIT: Final = 8

Classes = NDArray[np.int64]
Indexes = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class _Groups:
    """Equal samples, together: the first of each group, and all members by group."""

    firsts: Indexes
    members: tuple[Indexes, ...]

    def __len__(self) -> int:
        return len(self.members)


def split(
    samples: Samples, settings: DataSettings, *, calibrating: bool, evaluation: Samples | None = None
) -> Split:
    """Shuffle with a fixed seed and divide: half of the different samples calibrate, others evaluate.

    With `evaluation` that is what evaluates, and calibration gets those of `samples` that are not in it. Either
    side has at most what the settings say; equal samples calibrate once. Raises DataError when calibration or
    a half would get fewer than MIN_PER_SPLIT samples.
    """
    if evaluation is not None:
        chosen = stratified(evaluation.classes, len(evaluation))[: settings.evaluation_samples]
        kept = apart(_keys(samples), set(_keys(evaluation)), samples.classes)[: settings.calibration_samples]
        if calibrating and len(kept) < MIN_PER_SPLIT:
            raise DataError(
                f"The data holds {len(kept)} samples that are not in the evaluation data too; int8 needs at "
                f"least {MIN_PER_SPLIT} to calibrate."
            )
        return Split(samples.take(kept if calibrating else kept[:0]), evaluation.take(chosen))
    if not calibrating:
        order = stratified(samples.classes, len(samples))
        return Split(samples.take(order[:0]), samples.take(order[: settings.evaluation_samples]))
    first, second = halves(_keys(samples), samples.classes, settings.calibration_samples)
    return Split(samples.take(first), samples.take(second[: settings.evaluation_samples]))


def halves(keys: Sequence[bytes], classes: Classes | None, at_most: int) -> tuple[Indexes, Indexes]:
    """Return different samples for the first half, at most so many, and all samples that equal none of them.

    `keys` are equal for equal samples. A class with one sample is in the second half. Raises DataError when a
    half would get fewer than MIN_PER_SPLIT.
    """
    groups = _grouped(keys)
    _check_enough(len(keys), len(groups))
    own = None if classes is None else classes[groups.firsts]
    order = stratified(own, len(groups))
    wanted = min(len(groups) // 2, at_most)
    if own is None:
        is_first = np.zeros(len(groups), np.bool_)
        is_first[order[:wanted]] = True
    else:
        is_first = _first_of_each(own, order, wanted)
    first = groups.firsts[order[is_first[order]]]
    second = np.concatenate([groups.members[group] for group in order[~is_first[order]]])
    return first, second


def apart(keys: Sequence[bytes], others: set[bytes], classes: Classes | None) -> Indexes:
    """Return one of each group of equal samples that are not among the others, in a stratified order."""
    firsts = _grouped(keys).firsts
    kept = np.array([index for index in firsts if keys[index] not in others], np.intp)
    order = stratified(None if classes is None else classes[kept], len(kept))
    return kept[order]


def stratified(classes: Classes | None, count: int) -> Indexes:
    """Return a shuffled order, the same each time, whose every beginning holds the classes in their shares.

    A beginning that is long enough holds each class.
    """
    order = np.random.default_rng(SEED).permutation(count)
    if classes is None or not count:
        return order
    _, number, sizes = np.unique(classes[order], return_inverse=True, return_counts=True)
    by_class = np.argsort(number, kind="stable")
    starts = np.cumsum(sizes) - sizes
    rank = np.empty(count, np.int64)
    rank[by_class] = np.arange(count) - np.repeat(starts, sizes)
    return order[np.argsort(rank / sizes[number], kind="stable")]


def key_of(arrays: Mapping[str, Array]) -> bytes:
    """Return the same bytes for the same arrays by name, and others for others."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(arrays):
        # One cell of an array of objects is no array.
        array = np.asarray(arrays[name])
        is_text = array.dtype.kind in "OSU"
        digest.update(f"{name}\0{'text' if is_text else array.dtype.str}\0{array.shape}\0".encode())
        # The bytes of objects are where they lie, and those of text depend on the longest in its array.
        digest.update(repr(array.tolist()).encode() if is_text else array.tobytes())
    return digest.digest()


def _keys(samples: Samples) -> list[bytes]:
    return [key_of(sample) for sample in samples.inputs]


def _grouped(keys: Sequence[bytes]) -> _Groups:
    members: dict[bytes, list[int]] = {}
    for index, key in enumerate(keys):
        members.setdefault(key, []).append(index)
    return _Groups(
        np.array([group[0] for group in members.values()], np.intp),
        tuple(np.array(group, np.intp) for group in members.values()),
    )


def _check_enough(count: int, different: int) -> None:
    least = 2 * MIN_PER_SPLIT
    if different >= least:
        return
    held = f"{count} samples" if count < least else f"{count} samples, of which only {different} differ"
    raise DataError(
        f"The data holds {held}; int8 needs at least {least}: half to calibrate and half to evaluate."
    )


def _first_of_each(classes: Classes, order: Indexes, wanted: int) -> NDArray[np.bool_]:
    numbers, sizes = np.unique(classes, return_counts=True)
    left = dict(zip(numbers.tolist(), _shares(sizes, wanted).tolist(), strict=True))
    is_first = np.zeros(len(classes), np.bool_)
    for index in order:
        number = int(classes[index])
        if left[number] > 0:
            left[number] -= 1
            is_first[index] = True
    return is_first


def _shares(sizes: NDArray[np.intp], wanted: int) -> NDArray[np.intp]:
    """Divide `wanted` among classes of these sizes by the largest remainder; leave one of each if possible."""
    exact = sizes * (wanted / sizes.sum())
    given = np.minimum(np.floor(exact).astype(np.intp), sizes - 1)
    for limit in (sizes - 1, sizes):
        while given.sum() < wanted and (given < limit).any():
            given[np.argmax(np.where(given < limit, exact - given, -np.inf))] += 1
    return given
