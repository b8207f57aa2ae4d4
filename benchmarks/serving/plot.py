"""The comparison as a picture."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.serving.rows import Row

OURS, THEIRS, PART = "#1f6f8b", "#b8c4cc", "edge-agent"


def draw(rows: Sequence[Row], path: Path) -> None:
    """Write an SVG with a panel for each unit that peers are compared in: latencies, and answers a second."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    panels = {
        "one request, µs (less is better)": _bars(rows, "µs"),
        "answers a second (more is better)": _bars(rows, "1/s"),
    }
    panels = {title: bars for title, bars in panels.items() if bars}
    mpl.rcParams.update({"svg.hashsalt": "edge-agent", "font.size": 9})
    figure, axes = pyplot.subplots(len(panels), 1, figsize=(7.5, 1.2 + 2.4 * len(panels)), squeeze=False)
    for axis, (title, bars) in zip(axes[:, 0], panels.items(), strict=True):
        names, values = list(bars), list(bars.values())
        drawn = axis.barh(names, values, color=[OURS if name.startswith(PART) else THEIRS for name in names])
        axis.bar_label(drawn, [f"{value:,.0f}" for value in values], padding=3)
        axis.set_title(title, loc="left", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
        axis.invert_yaxis()
        axis.margins(x=0.12)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _bars(rows: Sequence[Row], unit: str) -> dict[str, float]:
    """Return the figures of all servers in a unit, by server and what it was asked."""
    bars: dict[str, float] = {}
    for row in rows:
        compared = [name for name in row.peers if not name.startswith(PART)]
        if row.peers_unit != unit or PART not in row.peers or compared == ["bare loops"]:
            continue
        what = "cached" if row.name.startswith("cached") else "uncached"
        for name, value in row.peers.items():
            bars.setdefault(f"{name}, {what}", value)
    return dict(sorted(bars.items(), key=lambda item: item[1]))
