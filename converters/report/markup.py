"""Escaping, and the few elements that the page is put together from."""

import html
from collections.abc import Sequence

from converters.report import svg


def escaped(text: object) -> str:
    """Return text that is safe in an element and in a quoted attribute."""
    return html.escape(svg.printable(str(text)))


def element(name: str, text: object, attributes: str = "") -> str:
    """Return an element with escaped text; the attributes are written as they are."""
    return f"<{name}{' ' if attributes else ''}{attributes}>{escaped(text)}</{name}>"


def row_heading(text: object) -> str:
    """Return the cell that names a row."""
    return element("th", text, 'scope="row"')


def prose_cell(text: object) -> str:
    """Return a cell of running text."""
    return element("td", text, 'class="prose"')


def number_cell(text: object) -> str:
    """Return a cell that is aligned to the right."""
    return element("td", text, 'class="number"')


def heading_row(names: Sequence[str], numbers: Sequence[str]) -> str:
    """Return a table's head; the columns among `numbers` are aligned to the right."""
    cells = "".join(
        element("th", name, 'scope="col" class="number"' if name in numbers else 'scope="col"')
        for name in names
    )
    return f"<thead><tr>{cells}</tr></thead>"


def table(caption: str, head: str, rows: Sequence[str]) -> str:
    """Return a table that scrolls by itself on a narrow screen; rows are complete `<tr>` elements."""
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escaped(caption)}">\n<table>\n'
        f"<caption>{escaped(caption)}</caption>\n{head}\n<tbody>\n" + "\n".join(rows) + "\n</tbody>\n</table>\n"
        "</div>\n"
    )
