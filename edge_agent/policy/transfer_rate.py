"""How fast a download is, and when it will be done. Pure: the time is an argument."""

from dataclasses import dataclass
from typing import Final

WINDOW_S: Final = 15.0
"""The rate is that of these last seconds, so that a pause soon shows."""
_SAMPLE_S: Final = 1.0
_LEAST_S: Final = 0.5
"""Over less than this, what the kernel had ready says nothing of the link."""


@dataclass(frozen=True, slots=True)
class TransferRate:
    """What was done by when: pairs of seconds of a clock that only goes forward, and bytes."""

    samples: tuple[tuple[float, int], ...]

    def seen(self, now_s: float, done_bytes: int) -> "TransferRate":
        """Return the same with what is done now."""
        kept = tuple(sample for sample in self.samples[:-1] if now_s - sample[0] <= WINDOW_S)
        last = self.samples[-1]
        if not kept or last[0] - kept[-1][0] >= _SAMPLE_S:
            kept = (*kept, last)
        return TransferRate((*kept, (now_s, done_bytes)))

    @property
    def bytes_per_s(self) -> float:
        """The rate of the last seconds; 0 before it can be told."""
        (first_s, first), (last_s, last) = self.samples[0], self.samples[-1]
        return (last - first) / (last_s - first_s) if last_s - first_s >= _LEAST_S else 0.0


def eta_s(done_bytes: int, total_bytes: int, bytes_per_s: float) -> float | None:
    """Return the seconds until all is done at this rate, None where that cannot be told."""
    left = max(0, total_bytes - done_bytes)
    if not total_bytes or (left and bytes_per_s <= 0):
        return None
    return left / bytes_per_s if left else 0.0
