"""The sweep as one picture: accuracy against latency and against compressed size, the front marked."""

import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from converters.errors import missing
from converters.package import mapping_os_errors
from converters.report.model import Metric
from converters.sweep.results import COLUMNS, Row, Sweep, cells
from edge_agent.documents.errors import RequestError
from edge_agent.store.files import write_atomically

_AXES: Final = (("latency_ms", "latency of a run (ms)", 1.0), ("transfer_bytes", "compressed size (kB)", 1e-3))
_STYLE: Final = (
    "body{font:15px system-ui,sans-serif;margin:2em auto;max-width:70em;color:#222}"
    "table{border-collapse:collapse}"
    "td,th{padding:.25em .8em;border-bottom:1px solid #ddd;text-align:left}svg{max-width:100%;height:auto}"
    "tr.front{font-weight:600}tr.picked{background:#e8f4e8}"
)


def write_plot(sweep: Sweep, path: Path) -> None:
    """Write an .svg picture, or an .html page with picture and table that needs no other file.

    Raises RequestError for another suffix, StorageError where the file cannot be written.
    """
    check_suffix(path)
    content = svg(sweep) if path.suffix.lower() == ".svg" else page(sweep)
    with mapping_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content.encode())


def check_suffix(path: Path) -> None:
    """Raise RequestError unless `write_plot` can write this kind of file."""
    if path.suffix.lower() not in (".svg", ".html"):
        raise RequestError(f"A plot is written as .svg or .html, not as '{path.name}'; name it like that.")


def page(sweep: Sweep) -> str:
    """Return a self-contained HTML page."""
    names = [sweep.metric.name if name == "quality" else name for name in COLUMNS]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    rows = "\n".join(_table_row(row, sweep.metric) for row in sweep.rows)
    said = "" if sweep.picked is None else f"<p>&gt; picked by <code>{html.escape(sweep.pick)}</code></p>"
    picture = svg(sweep)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Sweep</title>'
        f"<style>{_STYLE}</style></head><body><h1>Sweep</h1>\n{picture[picture.index('<svg') :]}\n"
        f"<p>* on the front: nothing beats it in {sweep.metric.name}, compressed size and latency</p>{said}\n"
        f"<table><tr>{head}</tr>\n{rows}\n</table></body></html>\n"
    )


def svg(sweep: Sweep) -> str:
    """Return the picture; equal sweeps give equal text. Raises ToolMissingError without matplotlib."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing("matplotlib") from error
    # Ids and dates would differ each time; text stays text, so that it can be searched and read aloud.
    with mpl.rc_context({"svg.hashsalt": "edge-convert", "svg.fonttype": "none"}):
        figure = Figure(figsize=(12, 5), layout="constrained")
        for place, (name, label, scale) in zip(figure.subplots(1, 2, sharey=True), _AXES, strict=True):
            _draw(place, sweep, name, scale)
            place.set_xlabel(label)
        figure.axes[0].set_ylabel(f"points of {sweep.metric.name} lost")
        figure.axes[0].invert_yaxis()
        if any(row.result is not None for row in sweep.rows):
            shown = figure.axes[0].get_legend_handles_labels()
            figure.legend(*shown, loc="outside lower center", ncols=4, fontsize="small")
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    return written.getvalue()


def _draw(place: Any, sweep: Sweep, name: str, scale: float) -> None:
    measured = [row for row in sweep.rows if row.result is not None]
    for number, model in enumerate(dict.fromkeys(row.model for row in measured)):
        for rows, marker, kind in (
            ([row for row in measured if row.model == model and not row.on_front], "o", ""),
            ([row for row in measured if row.model == model and row.on_front], "D", ", on the front"),
        ):
            if rows:
                xs, ys = _places(rows, name, scale)
                style = {"alpha": 1.0 if kind else 0.5, "color": f"C{number}"}
                place.plot(xs, ys, marker, label=f"{model}{kind}".lstrip("_"), **style)
    for row in measured:
        if row.on_front:
            (x,), (y,) = _places([row], name, scale)
            weight = "bold" if row.picked else "normal"
            place.annotate(row.trial, (x, y), (4, 4), textcoords="offset points", fontsize=8, fontweight=weight)
    place.margins(x=0.15, y=0.1)
    place.grid(visible=True, alpha=0.3)


def _places(rows: Sequence[Row], name: str, scale: float) -> tuple[list[float], list[float]]:
    return (
        [scale * float(getattr(row, name)) for row in rows],
        [row.drop for row in rows if row.drop is not None],
    )


def _table_row(row: Row, metric: Metric) -> str:
    kind = " ".join(name for name, on in (("front", row.on_front), ("picked", row.picked)) if on)
    return (
        f'<tr class="{kind}">'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells(row, metric))
        + "</tr>"
    )
