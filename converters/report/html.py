"""A report as one HTML page that asks for nothing else: no scripts, fonts or pictures from elsewhere.

Equal reports give equal bytes.
"""

import json

from converters.report import charts, facts, tables
from converters.report.markup import element, escaped, figure, page, section
from converters.report.model import Pruning, Report, VariantRow, timeless
from converters.report.text import size

MAX_HISTOGRAMS = 12
"""Tensors whose calibration is drawn; the rest is in the JSON."""

MAX_CLASS_CHARTS = 6
"""Variants whose classes are drawn, packaged ones first."""

_PRUNED = {
    "magnitude": ("the prunable weights are zero", "Zero weights shrink what travels, not the time of a run."),
    "channels": (
        "the prunable channels are gone",
        "The graph is smaller: there is less to download and to compute.",
    ),
}
"""What is gone by each method, and what that is good for."""


def render(report: Report, *, with_times: bool = True) -> str:
    """Return the page; `with_times=False` leaves out what differs from run to run: latencies and memory.

    Raises ToolMissingError without matplotlib.
    """
    shown = report if with_times else timeless(report)
    sections = (
        _variants(shown),
        _tradeoffs(shown),
        _classes(shown),
        _calibration(shown),
        _layers(shown),
        _pruning(shown),
        _facts(shown),
    )
    body = "\n".join((_header(shown), *(part for part in sections if part)))
    return page(f"{shown.name} {shown.version}: conversion report", body)


def _header(report: Report) -> str:
    packaged = sum(row.packaged for row in report.rows)
    made = report.timestamp.strftime("%Y-%m-%d %H:%M:%S UTC")
    heading = f"<h1>{escaped(report.name)} <small>version {escaped(report.version)}</small></h1>"
    sentence = (
        f"{packaged} of {len(report.rows)} variants passed the gate and are packaged. Made from a "
        f"{report.framework} model of {size(report.source_bytes)} on {made}."
    )
    tiles = "".join(f"<div><dt>{escaped(k)}</dt><dd>{escaped(v)}</dd></div>" for k, v in facts.tiles(report))
    notes = "".join(element("li", note) for note in report.notes)
    return (
        f'<header>\n{heading}\n<p class="quiet">{escaped(sentence)}</p>\n'
        + (f'<dl class="tiles">{tiles}</dl>\n' if tiles else "")
        + (f'<ul class="notes">{notes}</ul>\n' if notes else "")
        + "</header>"
    )


def _variants(report: Report) -> str:
    return section(
        "Variants",
        "In the order in which a device tries them. The drop is what the gate judges, in points (hundredths).",
        tables.variants(report) + tables.runtimes(report) + tables.making(report),
    )


def _tradeoffs(report: Report) -> str:
    drawn = [
        (charts.tradeoff(report, "size"), "Quality against the size of the file."),
        (charts.tradeoff(report, "latency"), "Quality against latency."),
    ]
    figures = [figure(image, caption) for image, caption in drawn if image is not None]
    if not figures:
        return ""
    entries = charts.legend(report.rows)
    key = "".join(
        f'<li><span style="background: var(--{colour})"></span>{escaped(name)}</li>' for colour, name in entries
    )
    line = "The solid line is the Pareto front of what is packaged, the dotted one the float model."
    return section(
        "What is paid for what",
        line,
        f'<div class="charts">{"".join(figures)}</div>\n<ul class="key">{key}</ul>',
    )


def _classes(report: Report) -> str:
    rows = [row for row in report.rows if charts.changed_classes(report, row)]
    if not report.float_per_class or not rows:
        return ""
    limit = charts.class_limit(report, rows[:MAX_CLASS_CHARTS])
    figures = [_class_figure(report, row, limit) for row in rows[:MAX_CLASS_CHARTS]]
    return section(
        "Change per class",
        "Points of accuracy that each class wins or loses against the float model, the largest changes first. "
        "Variants and classes that are not shown keep theirs.",
        f'<div class="charts small">{"".join(figures)}</div>',
    )


def _class_figure(report: Report, row: VariantRow, limit: float) -> str:
    changes = charts.changed_classes(report, row)
    caption = f"{len(changes)} of {len(report.float_per_class)} classes change"
    more = f"; the largest {charts.MAX_BARS} are shown" if len(changes) > charts.MAX_BARS else ""
    return figure(charts.class_changes(report, row, limit) or "", f"{caption}{more}.")


def _calibration(report: Report) -> str:
    shown = report.histograms[:MAX_HISTOGRAMS]
    if not shown:
        return ""
    figures = "".join(figure(charts.calibration(one), "") for one in shown)
    rest = len(report.histograms) - len(shown)
    more = f" {rest} more tensors are in the JSON." if rest else ""
    return section(
        "Calibration",
        "Values of activations over the calibration samples (logarithmic counts), between the bounds of the "
        f"range that was chosen; what lies outside is clipped.{more}",
        f'<div class="charts small">{figures}</div>',
    )


def _layers(report: Report) -> str:
    image = charts.sensitivities(report.sensitivities)
    searched = tables.search(report)
    if image is None and not searched:
        return ""
    left = "" if image is None else figure(image, "Each layer quantized alone, the others in float.")
    return section(
        "The layers that lose most",
        "How far off quantizing each layer alone puts the answers, and which layers were kept in float for it.",
        f'<div class="charts">{left}<div>{searched}</div></div>' if searched else left,
    )


def _pruning(report: Report) -> str:
    pruning = report.pruning
    if pruning is None:
        return ""
    gone, effect = _PRUNED[pruning.method]
    said = f"{100 * pruning.sparsity:.1f} % of {gone}.{_sizes(pruning)} {effect}"
    image = charts.sparsities(pruning)
    return section("Pruning", said, "" if image is None else figure(image, ""))


def _sizes(pruning: Pruning) -> str:
    """Return the sentences on the float file before and after; none where it was not measured."""
    pairs = {
        "The float model": (pruning.size_before_bytes, pruning.size_after_bytes),
        "Compressed, it": (pruning.compressed_before_bytes, pruning.compressed_after_bytes),
    }
    return "".join(
        f" {subject} went from {size(before)} to {size(after)}, which is {after / before:.2f}x."
        for subject, (before, after) in pairs.items()
        if before and after
    )


def _facts(report: Report) -> str:
    recipe = json.dumps(dict(report.recipe), indent=2, ensure_ascii=False, default=str)
    parts = [facts.listed(report)]
    if report.tools:
        parts.append(f"<details><summary>Versions of the tools</summary>{facts.tools(report)}</details>")
    if report.recipe:
        parts.append(f"<details><summary>Recipe</summary><pre><code>{escaped(recipe)}</code></pre></details>")
    return section("Facts", "", "\n".join(parts))
