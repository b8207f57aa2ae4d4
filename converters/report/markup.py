"""Escaping, and the few elements that pages are put together from."""

import html
from collections.abc import Sequence
from typing import Final

from converters.report import svg
from converters.report.style import CSS

_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""A browser then refuses to load or run anything, whatever a name in the report says."""


def page(title: str, body: str) -> str:
    """Return a whole page of a header and sections, which asks for nothing else."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{escaped(title)}</title>\n<style>\n{CSS}</style>\n</head>\n<body>\n<main>\n"
        f"{body}\n</main>\n</body>\n</html>\n"
    )


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


def figure(image: str, caption: str) -> str:
    """Return a picture with what is said below it."""
    said = f"<figcaption>{escaped(caption)}</figcaption>" if caption else ""
    return f"<figure>\n{image}\n{said}</figure>\n"


def section(title: str, lead: str, content: str) -> str:
    """Return a part of a page under a heading; `lead` says what is shown."""
    name = title.lower().replace(" ", "-")
    words = f'<p class="quiet">{escaped(lead)}</p>\n' if lead else ""
    heading = f'<h2 id="{name}">{escaped(title)}</h2>'
    return f'<section aria-labelledby="{name}">\n{heading}\n{words}{content}\n</section>'
