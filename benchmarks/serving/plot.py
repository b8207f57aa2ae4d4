"""The comparison with other servers as a picture. The one module here that uses matplotlib."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.serving.rows import Row, shown

OURS, THEIRS, PART = "#1f6f8b", "#b8c4cc", "edge-agent"
BAR_IN = 0.3
"""Height of a bar, in inches."""

_PANELS = {
    "tiny model, one request (less is better)": "tiny model uncached",
    "cached answer, one request (less is better)": "cached answer,",
    "cached answers a second, 16 connections (more is better)": "cached answers",
}
"""What the names of a panel's rows begin with, by its title."""


def panels(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Return the bars of each panel that there are rows for: figures by server, ours first."""
    found = {}
    for title, start in _PANELS.items():
        chosen = [row for row in rows if row.name.startswith(start) and row.peers]
        bars = {name: value for row in chosen for name, value in row.peers.items()}
        if bars:
            found[f"{title}, {chosen[0].peers_unit}"] = bars
    return found


def draw(rows: Sequence[Row], path: Path) -> None:
    """Write an SVG with a panel for each comparison; nothing where nothing was compared."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    found = panels(rows)
    if not found:
        return
    mpl.rcParams.update({"svg.hashsalt": "edge-agent", "svg.fonttype": "none", "font.size": 9})
    heights = [len(bars) for bars in found.values()]
    size = (7.0, sum(BAR_IN * height + 0.45 for height in heights))
    figure, axes = pyplot.subplots(len(found), 1, figsize=size, squeeze=False, height_ratios=heights)
    for axis, (title, bars) in zip(axes[:, 0], found.items(), strict=True):
        _fill(axis, title, bars)
    figure.align_ylabels()
    figure.tight_layout(h_pad=1.2)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _fill(axis: Any, title: str, bars: Mapping[str, float]) -> None:
    colours = [OURS if name.startswith(PART) else THEIRS for name in bars]
    drawn = axis.barh(list(bars), list(bars.values()), height=0.7, color=colours)
    axis.bar_label(drawn, [shown(value) for value in bars.values()], padding=4)
    axis.set_title(title, loc="left", fontsize=9, fontweight="bold")
    axis.spines[["top", "right", "bottom"]].set_visible(False)
    axis.tick_params(length=0)
    axis.set_xticks([])
    axis.invert_yaxis()
    axis.margins(x=0.1)
