"""The charts of a report: what is drawn, and what each says in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from converters.checks.metrics import Metric
from converters.report import svg, text
from converters.report.front import front
from converters.report.labels import Label, place_labels
from converters.report.model import Histogram, Pruning, Report, Sensitivity, VariantRow

MAX_BARS: Final = 12
"""Bars of one chart; the rest is in the JSON."""

LEAST_CHANGE: Final = 0.05
"""Points; a smaller change of a class is none."""

_WIDTH_IN: Final = 5.4
_SMALL_IN: Final = 3.9
_BAR_IN: Final = 0.42
_FRAME_IN: Final = 0.62
"""Height of what is around the bars: title and axis."""

_LOG_RATIO: Final = 20.0
"""From here on costs are drawn on a logarithmic axis."""

Cost = Literal["size", "latency"]


@dataclass(frozen=True, slots=True)
class _Point:
    row: VariantRow
    cost: float
    score: float


def tradeoff(report: Report, cost: Cost) -> str | None:
    """Draw the score of every variant against its cost, or return None where fewer than two have both."""
    metric, points = _points(report, cost)
    if len(points) < 2:
        return None
    best = _front(points, metric)
    named = ", ".join(point.row.label for point in best)
    label = f"{metric.name} against {cost} of {len(points)} variants; on the Pareto front: {named or 'none'}"
    return svg.figure(
        f"tradeoff-{cost}", label, _WIDTH_IN, 3.6, lambda axes: _tradeoff(axes, report, metric, points, cost)
    )


def class_changes(report: Report, row: VariantRow, limit: float) -> str | None:
    """Draw by how many points a variant's largest changes per class are; `limit` is the axis' end."""
    changes = changed_classes(report, row)[:MAX_BARS]
    if not changes:
        return None
    label = f"Change per class of {row.label}: " + ", ".join(f"{n} {signed(v)} points" for n, v in changes)
    return svg.figure(
        f"classes-{row.label}",
        label,
        _SMALL_IN,
        _FRAME_IN + 0.25 * len(changes),
        lambda axes: _diverging(axes, row.label, changes, limit),
    )


def changed_classes(report: Report, row: VariantRow) -> list[tuple[str, float]]:
    """Return the classes that a variant changes, with the points won or, below 0, lost; largest first."""
    changes = [
        (name, 100 * (row.per_class[name] - own))
        for name, own in report.float_per_class.items()
        if name in row.per_class
    ]
    return sorted(
        (one for one in changes if abs(one[1]) >= LEAST_CHANGE), key=lambda one: (-abs(one[1]), one[0])
    )


def signed(change: float) -> str:
    """Return points with their sign."""
    return f"{change:+.1f}".replace("-", "\u2212")


def calibration(histogram: Histogram) -> str:
    """Draw a tensor's values over the calibration samples and the range that was chosen."""
    label = (
        f"Values of {histogram.tensor} from {histogram.edges[0]:.4g} to {histogram.edges[-1]:.4g}; the chosen "
        f"range is {histogram.low:.4g} to {histogram.high:.4g}, {100 * clipped(histogram):.2g} % lie outside"
    )
    return svg.figure(
        f"calibration-{histogram.tensor}", label, _SMALL_IN, 2.1, lambda axes: _histogram(axes, histogram)
    )


def clipped(histogram: Histogram) -> float:
    """Return the share of values outside the chosen range, bins taken as evenly filled."""
    outside = 0.0
    for low, high, count in zip(histogram.edges, histogram.edges[1:], histogram.counts, strict=False):
        inside = max(0.0, min(high, histogram.high) - max(low, histogram.low))
        whole = high - low
        outside += count * (1 - min(1.0, inside / whole)) if whole > 0 else 0.0
    return outside / max(1, sum(histogram.counts))


def sensitivities(losses: Sequence[Sensitivity]) -> str | None:
    """Draw what quantizing each layer alone costs, the worst first."""
    worst = sorted(losses, key=lambda one: (-one.loss, one.layer))[:MAX_BARS]
    if not worst:
        return None
    bars = [(one.layer, one.loss, f"{one.loss:.3g}") for one in worst]
    limit = max(1e-9, *(one.loss for one in worst))
    return _bars(
        "sensitivities", "Squared error with one layer quantized, share of variance", bars, limit, svg.BAD
    )


def sparsities(pruning: Pruning) -> str | None:
    """Draw the share of zero weights in each layer, in the model's order."""
    bars = [(name, share, f"{100 * share:.1f} %") for name, share in pruning.layers.items()][: 2 * MAX_BARS]
    if not bars:
        return None
    title = {
        "magnitude": "Share of weights that are zero, by layer",
        "channels": "Share of channels that are gone, by layer",
    }[pruning.method]
    return _bars("sparsities", title, bars, 1.0, svg.FIRST)


def _points(report: Report, cost: Cost) -> tuple[Metric, list[_Point]]:
    """Return what scores are read as, and the variants that have both; without labels agreement is it."""
    has_scores = any(row.score is not None for row in report.rows)
    metric = report.metric if has_scores else Metric()
    points = []
    for row in report.rows:
        paid = row.size_bytes if cost == "size" else row.latency_ms
        score = row.score if has_scores else row.agreement
        if paid is not None and score is not None:
            points.append(_Point(row, float(paid), score))
    return metric, points


def _front(points: Sequence[_Point], metric: Metric) -> list[_Point]:
    """Return the packaged points that nothing else beats, the cheapest first."""
    packaged = sorted((point for point in points if point.row.packaged), key=lambda point: point.cost)
    sign = -1 if metric.higher_is_better else 1
    return [packaged[index] for index in front([(point.cost, sign * point.score) for point in packaged])]


def _tradeoff(axes: Any, report: Report, metric: Metric, points: Sequence[_Point], cost: Cost) -> None:
    factor = 100.0 if metric.is_share else 1.0
    _set_cost_axis(axes, points, cost)
    low, high = _score_range(report, metric, points)
    axes.set_ylim(factor * low, factor * high)
    if metric.is_share:
        most = min(100.0, factor * high) + 1e-6
        axes.set_yticks([tick for tick in axes.get_yticks() if factor * low <= tick <= most])
    hint = "" if metric.higher_is_better else ", less is better"
    axes.set_ylabel(f"{metric.name}{' (%)' if metric.is_share else ''}{hint}")
    if report.float_score is not None:
        axes.axhline(factor * report.float_score, color=svg.MUTED, linewidth=1, linestyle=(0, (2, 3)))
    best = _front(points, metric)
    axes.step(
        [point.cost for point in best],
        [factor * point.score for point in best],
        where="post", color=svg.MUTED, linewidth=1.4, alpha=0.7,
    )  # fmt: skip
    labels: list[Label] = []
    for point in points:
        shown = min(high, max(low, point.score))
        _mark(axes, point, factor * shown, is_cut=shown != point.score)
        note = f"{point.row.label}: {metric.text(point.score)}" if shown != point.score else point.row.label
        labels.append(Label(point.cost, factor * shown, note, is_faint=not point.row.packaged))
    place_labels(axes, labels)


def _set_cost_axis(axes: Any, points: Sequence[_Point], cost: Cost) -> None:
    costs = [point.cost for point in points]
    if min(costs) > 0 and max(costs) / min(costs) > _LOG_RATIO:
        axes.set_xscale("log")
        axes.set_xlim(min(costs) / 1.6, max(costs) * 1.6)
    else:
        axes.set_xlim(0, 1.15 * max(costs))
    if cost == "size":
        axes.xaxis.set_major_formatter(lambda value, position: text.size(value))
        axes.set_xlabel("size of the file")
    else:
        axes.set_xlabel("median latency on this host (ms)")


def _score_range(report: Report, metric: Metric, points: Sequence[_Point]) -> tuple[float, float]:
    """Return the axis' ends: around what is packaged; a hopeless variant does not squash the rest."""
    scores = [point.score for point in points if point.row.packaged] or [point.score for point in points]
    if report.float_score is not None:
        scores.append(report.float_score)
    least = 0.004 if metric.is_share else 0.02 * max(1e-9, *map(abs, scores))
    span = max(max(scores) - min(scores), least)
    low, high = min(scores) - 0.9 * span, max(scores) + 0.6 * span
    for point in points:
        if abs(point.score - (low + high) / 2) < 2.5 * (high - low):
            low, high = min(low, point.score - 0.3 * span), max(high, point.score + 0.3 * span)
    # Nothing is better than all; what is left above it is for labels.
    return low, min(high, 1.0 + 0.4 * span) if metric.is_share else high


def _mark(axes: Any, point: _Point, y: float, *, is_cut: bool) -> None:
    colour = svg.FIRST if point.row.engine == "onnx" else svg.SECOND
    marker = "v" if is_cut else ("o" if point.row.packaged else "X")
    axes.plot(
        [point.cost], [y],
        marker=marker, markersize=8.5, clip_on=False, zorder=3,
        color=colour if point.row.packaged else svg.BAD,
        markeredgecolor=svg.CARD, markeredgewidth=1.2,
    )  # fmt: skip


def _diverging(axes: Any, title: str, changes: Sequence[tuple[str, float]], limit: float) -> None:
    places = range(len(changes))
    values = [value for _, value in changes]
    axes.barh(places, values, height=0.62, color=[svg.GOOD if value > 0 else svg.BAD for value in values])
    axes.set_yticks(places, [svg.shortened(name, 18) for name, _ in changes], color=svg.INK)
    axes.invert_yaxis()
    axes.set_xlim(-1.35 * limit, 1.35 * limit)
    axes.axvline(0, color=svg.MUTED, linewidth=1)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.set_title(svg.shortened(title, 40), fontweight="bold")
    for place, value in zip(places, values, strict=True):
        axes.annotate(
            signed(value), (value, place), (4 if value > 0 else -4, 0), textcoords="offset points",
            horizontalalignment="left" if value > 0 else "right", verticalalignment="center",
        )  # fmt: skip


def _histogram(axes: Any, histogram: Histogram) -> None:
    axes.axvspan(histogram.low, histogram.high, color=svg.FIRST, alpha=0.13, linewidth=0)
    axes.stairs(histogram.counts, histogram.edges, fill=True, color=svg.FIRST, alpha=0.75)
    for bound in (histogram.low, histogram.high):
        axes.axvline(bound, color=svg.INK, linewidth=1.1)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda count, position: f"{count:,.0f}")
    axes.set_ylim(bottom=0.7)
    axes.grid(visible=False, axis="x")
    axes.set_title(svg.shortened(histogram.tensor, 44), fontweight="bold")
    axes.set_xlabel(f"{histogram.low:.4g} to {histogram.high:.4g}, {100 * clipped(histogram):.2g} % outside")


def _bars(name: str, title: str, bars: Sequence[tuple[str, float, str]], limit: float, colour: str) -> str:
    label = f"{title}: " + ", ".join(f"{one} {said}" for one, _, said in bars)
    height_in = 0.25 + _BAR_IN * len(bars)
    return svg.figure(name, label, _WIDTH_IN, height_in, lambda axes: _named_bars(axes, bars, limit, colour))


def _named_bars(axes: Any, bars: Sequence[tuple[str, float, str]], limit: float, colour: str) -> None:
    """Draw bars with their names above them, since names of layers are long and screens narrow."""
    places = range(len(bars))
    axes.barh(places, [limit] * len(bars), height=0.3, color=svg.LINE, alpha=0.5)
    axes.barh(places, [max(0.0, value) for _, value, _ in bars], height=0.3, color=colour)
    axes.set_xlim(0, limit)
    axes.set_ylim(len(bars) - 0.7, -0.75)
    axes.set_axis_off()
    for place, (name, _, said) in zip(places, bars, strict=True):
        axes.text(0, place - 0.22, svg.shortened(name, 46), verticalalignment="bottom")
        axes.text(
            limit, place - 0.22, said, horizontalalignment="right", verticalalignment="bottom", color=svg.MUTED
        )


def class_limit(report: Report, rows: Sequence[VariantRow]) -> float:
    """Return the largest change of a class over these variants in points, for a common axis."""
    return max((abs(value) for row in rows for _, value in changed_classes(report, row)), default=1.0)


def legend(rows: Sequence[VariantRow]) -> list[tuple[str, str]]:
    """Return the CSS variable and the meaning of each colour that a trade-off uses."""
    engines = {row.engine for row in rows if row.packaged}
    names = [("first", "ONNX")] if "onnx" in engines else []
    names += [("second", "TFLite")] if engines - {"onnx"} else []
    return names if all(row.packaged for row in rows) else [*names, ("bad", "left out")]
