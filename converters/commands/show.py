"""Conversions on a terminal: a progress bar, tables and notes. The one module here that uses rich."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from types import SimpleNamespace
from typing import Any, TextIO

from converters.errors import missing
from converters.report import text
from converters.report.model import Package, Report, VariantRow
from converters.terms import Progress


@contextmanager
def progress_bar(stream: TextIO) -> Iterator[Progress]:
    """Show a bar on a terminal, and nothing elsewhere."""
    if not stream.isatty():
        yield lambda step, share: None
        return
    rich = import_rich()
    console = rich.Console(file=stream)
    columns = (rich.BarColumn(), rich.TaskProgressColumn(), rich.TextColumn("{task.description}", markup=False))
    with rich.Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("read the model", total=1.0)

        def advance(step: str, share: float) -> None:
            bar.update(task, description=step, completed=share)

        yield advance


def show_package(package: Package, stream: TextIO) -> None:
    """Print the table of variants, what was left out and why, and where the package lies."""
    report = package.report
    show_table(report, stream)
    console = console_for(import_rich(), stream)
    for note in (*text.reasons(report.rows), text.summary(report), *report.notes):
        console.print(f"- {note}", markup=False, highlight=False, soft_wrap=True)
    state = "" if package.is_new else " (was there already, unchanged)"
    console.print(f"{package.folder}{state}", markup=False, highlight=False, soft_wrap=True)


def show_table(report: Report, stream: TextIO) -> None:
    """Print the table of variants within 100 columns, or the terminal's if it has fewer."""
    rich = import_rich()
    console = console_for(rich, stream)
    headings, lines = text.table(report, console.width)
    styles = [_style(row) for row in report.rows]
    print_table(console, rich, headings, lines, left=(0, len(headings) - 1), styles=styles)


def print_table(
    console: Any,
    rich: SimpleNamespace,
    headings: Sequence[str],
    lines: Sequence[Sequence[str]],
    *,
    left: Sequence[int] = (0,),
    styles: Sequence[str] = (),
    folded: Sequence[str] = (text.FLEXIBLE,),
) -> None:
    """Print aligned columns under their headings, those at `left` to the left, and the others, of figures, to
    the right; only the columns `folded` have several lines a cell, and colours only show on a terminal.
    """
    table = rich.Table(box=rich.SIMPLE, pad_edge=False, padding=(0, 0, 0, 1), header_style="bold")
    for index, name in enumerate(headings):
        table.add_column(
            rich.escape(name),
            justify="left" if index in left else "right",
            no_wrap=name not in folded,
            overflow="fold",
        )
    for line, style in zip_longest(lines, styles, fillvalue=""):
        table.add_row(*(rich.escape(cell) for cell in line), style=style)
    console.print(table)


def _style(row: VariantRow) -> str:
    return "" if row.packaged else "dim"


def console_for(rich: SimpleNamespace, stream: TextIO) -> Any:
    """Return a console of at most 100 columns that writes colours to a terminal alone."""
    # Off a terminal rich would fold at 80 columns.
    if not stream.isatty():
        return rich.Console(file=stream, width=text.WIDTH)
    console = rich.Console(file=stream)
    return rich.Console(file=stream, width=min(text.WIDTH, console.width))


def import_rich() -> SimpleNamespace:
    """Return what is used of rich; raises ToolMissingError."""
    try:
        from rich.box import SIMPLE
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
        from rich.table import Table
    except ImportError as error:
        raise missing("rich") from error
    return SimpleNamespace(
        SIMPLE=SIMPLE,
        BarColumn=BarColumn,
        Console=Console,
        Progress=Progress,
        Table=Table,
        escape=escape,
        TaskProgressColumn=TaskProgressColumn,
        TextColumn=TextColumn,
    )
