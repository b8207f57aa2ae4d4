"""Labels beside the marks of a chart, where they cover least of each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from converters.report import svg

_CHARACTER: Final = 0.58
"""Width of a character in units of the font's size."""

_PLACES: Final[tuple[tuple[float, float, str], ...]] = (
    (9, 0, "left"), (0, 8, "center"), (0, -8, "center"), (-9, 0, "right"), (6, 7, "left"), (6, -7, "left"),
    (-6, 7, "right"), (-6, -7, "right"), (0, 22, "center"), (0, -22, "center"), (6, 21, "left"),
    (6, -21, "left"),
)  # fmt: skip
"""Where a label may stand: points from its mark, and the side that is aligned there; the best ones first."""


@dataclass(frozen=True, slots=True)
class Label:
    """What stands beside a mark, in the units of the axes."""

    x: float
    y: float
    text: str
    is_faint: bool = False
    is_bold: bool = False


def place_labels(axes: Any, labels: Sequence[Label]) -> None:
    """Write each label at the side of its point where it covers least of the others."""
    axes.figure.draw_without_rendering()  # the layout, and with it every place, is only known then
    box = axes.get_window_extent()
    taken: list[tuple[float, float, float, float]] = []
    for label in labels:
        px, py = axes.transData.transform((label.x, label.y))
        taken.append((px - 6, py - 6, px + 6, py + 6))
    for label in labels:
        px, py = axes.transData.transform((label.x, label.y))
        width, height = _CHARACTER * svg.FONT_POINTS * len(label.text), 1.15 * svg.FONT_POINTS
        boxes = [
            _box(px + dx, py + dy - (height / 2 if dy == 0 else height if dy < 0 else 0), width, height, side)
            for dx, dy, side in _PLACES
        ]
        costs = [
            sum(_overlap(one, other) for other in taken) + 3 * _outside(one, box.x0, box.y0, box.x1, box.y1)
            for one in boxes
        ]
        chosen = costs.index(min(costs))
        taken.append(boxes[chosen])
        dx, dy, side = _PLACES[chosen]
        axes.annotate(
            label.text, (label.x, label.y), (dx, dy), textcoords="offset points", annotation_clip=False,
            fontweight="bold" if label.is_bold else "normal",
            color=svg.MUTED if label.is_faint else svg.INK, horizontalalignment=side,
            verticalalignment="center" if dy == 0 else "bottom" if dy > 0 else "top",
        )  # fmt: skip


def _box(x: float, y: float, width: float, height: float, side: str) -> tuple[float, float, float, float]:
    left = x - {"left": 0.0, "center": width / 2, "right": width}[side]
    return (left, y, left + width, y + height)


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _outside(a: tuple[float, float, float, float], x0: float, y0: float, x1: float, y1: float) -> float:
    area = (a[2] - a[0]) * (a[3] - a[1])
    return area - _overlap(a, (x0, y0, x1, y1))
