"""The sweep as one picture: points lost against latency and against compressed size, the front marked."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from converters.package import mapping_os_errors
from converters.report import svg
from converters.report.labels import Label, place_labels
from converters.report.markup import element, escaped, figure, heading_row, page, section, table
from converters.sweep.results import FRONT, NUMBERS, Row, Sweep, cells, headings
from edge_agent.documents.errors import RequestError
from edge_agent.store.files import write_atomically

_AXES: Final = (("latency_ms", "latency of a run (ms)", 1.0), ("transfer_bytes", "compressed size (kB)", 1e-3))
_WIDTH_IN: Final = 11.0
_HEIGHT_IN: Final = 4.6
_COLOURS: Final = (svg.FIRST, svg.SECOND, svg.GOOD, svg.BAD)
_MARKERS: Final = ("o", "s", "^", "D", "v", "P")
"""Colours and marks that tell models apart, in turn."""


def write_plot(sweep: Sweep, path: Path) -> None:
    """Write an .svg picture, or an .html page with picture and table that needs no other file.

    Raises what `check` does, StorageError where the file cannot be written.
    """
    check(path)
    content = svg.alone(picture(sweep)) if path.suffix.lower() == ".svg" else html(sweep)
    with mapping_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content.encode())


def check(path: Path) -> None:
    """Raise RequestError unless `write_plot` writes this kind of file, ToolMissingError without matplotlib."""
    if path.suffix.lower() not in (".svg", ".html"):
        raise RequestError(f"A plot is written as .svg or .html, not as '{path.name}'; name it like that.")
    svg.require()


def html(sweep: Sweep) -> str:
    """Return a self-contained page in the style of a conversion's report."""
    models = list(dict.fromkeys(row.model for row in sweep.rows))
    lead = f"{len(sweep.rows)} results of {', '.join(models)}"
    picked = "" if sweep.picked is None else f"<p>&gt; picked by {element('code', sweep.pick)}</p>\n"
    names = headings(sweep.metric)
    numbers = [name for name, column in names.items() if column in NUMBERS]
    rows = [_table_row(row, sweep) for row in sweep.rows]
    return page(
        "Sweep",
        f'<header>\n<h1>Sweep</h1>\n<p class="quiet">{escaped(lead)}.</p>\n</header>\n'
        + section("What is paid for what", "", figure(picture(sweep), ""))
        + "\n"
        + section(
            "Results",
            FRONT.format(sweep.metric.name),
            picked + table("All results", heading_row(list(names), numbers), rows),
        ),
    )


def picture(sweep: Sweep) -> str:
    """Return the picture; equal sweeps give equal text. Raises ToolMissingError without matplotlib."""
    named = ", ".join(f"{row.model} {row.trial}" for row in sweep.front)
    label = f"Points of {sweep.metric.name} lost, against latency and compressed size; on the front: {named}"
    return svg.figure(
        "sweep", label, _WIDTH_IN, _HEIGHT_IN, lambda panels: _draw(panels, sweep), panels=len(_AXES)
    )


def _draw(panels: Sequence[Any], sweep: Sweep) -> None:
    for axes, (name, label, scale) in zip(panels, _AXES, strict=True):
        _draw_models(axes, sweep, name, scale)
        axes.set_xlabel(label)
    panels[0].set_ylabel(f"points of {sweep.metric.name} lost")
    panels[0].invert_yaxis()
    shown = panels[0].get_legend_handles_labels()
    if shown[0]:
        panels[0].figure.legend(*shown, loc="outside lower center", ncols=4, frameon=False)
    for axes, (name, _, scale) in zip(panels, _AXES, strict=True):
        front = [Label(*_place(row, name, scale), row.trial, is_bold=row.picked) for row in sweep.front]
        place_labels(axes, front)


def _draw_models(axes: Any, sweep: Sweep, name: str, scale: float) -> None:
    measured = [row for row in sweep.rows if row.result is not None]
    for number, model in enumerate(dict.fromkeys(row.model for row in measured)):
        own = [row for row in measured if row.model == model]
        for rows, kind in (
            ([row for row in own if not row.on_front], ""),
            ([row for row in own if row.on_front], ", on the front"),
        ):
            if not rows:
                continue
            xs, ys = zip(*(_place(row, name, scale) for row in rows), strict=True)
            axes.plot(
                xs, ys,
                marker=_MARKERS[number % len(_MARKERS)], linestyle="", alpha=1.0 if kind else 0.4,
                color=_COLOURS[number % len(_COLOURS)], markeredgecolor=svg.CARD, markersize=8.5,
                label=f"{svg.shortened(model, 40)}{kind}".lstrip("_"),
            )  # fmt: skip
    axes.margins(x=0.15, y=0.1)


def _place(row: Row, name: str, scale: float) -> tuple[float, float]:
    assert row.drop is not None
    return scale * float(getattr(row, name)), row.drop


def _table_row(row: Row, sweep: Sweep) -> str:
    shown = "".join(
        element("td", cell, 'class="number"' if column in NUMBERS else "")
        for cell, column in zip(cells(row, sweep.metric), headings(sweep.metric).values(), strict=True)
    )
    return f"<tr>{shown}</tr>" if row.on_front else f'<tr class="left-out">{shown}</tr>'
