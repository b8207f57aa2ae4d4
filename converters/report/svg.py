"""Figures by matplotlib as SVG that becomes part of a page. The one module here that uses matplotlib.

Colours are the page's CSS variables, so that a chart follows its light or dark scheme: matplotlib is given
stand-ins that are replaced in what it writes. Text stays text. Equal figures give equal bytes: the salt of its
identifiers is the chart's name, and no date or version is written
(https://matplotlib.org/stable/api/backend_svg_api.html).
"""

import html
import io
import logging
import re
import warnings
from collections.abc import Callable
from typing import Any, Final

from converters.errors import missing
from converters.report.style import COLOURS

INK: Final = "#000001"
MUTED: Final = "#000002"
LINE: Final = "#000003"
CARD: Final = "#000004"
FIRST: Final = "#000011"
SECOND: Final = "#000012"
GOOD: Final = "#000013"
BAD: Final = "#000014"

_VARIABLES: Final = {
    INK: "ink", MUTED: "muted", LINE: "line", CARD: "card",
    FIRST: "first", SECOND: "second", GOOD: "good", BAD: "bad",
}  # fmt: skip

FONT_POINTS: Final = 10.0

_STYLE: Final = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": FONT_POINTS,
    "axes.titlesize": FONT_POINTS,
    "axes.titlelocation": "left",
    "axes.labelsize": FONT_POINTS,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "figure.dpi": 72,
    "savefig.dpi": 72,
}

_NOISE: Final = (
    re.compile(r"<!--.*?-->", re.DOTALL),
    re.compile(r"<metadata>.*?</metadata>", re.DOTALL),
    # Numbered ones repeat from figure to figure; those that are referred to are salted hashes.
    re.compile(r' id="[A-Za-z0-9.]+_\d+"'),
)


def figure(
    name: str, label: str, width_in: float, height_in: float, draw: Callable[[Any], None], panels: int = 1
) -> str:
    """Return an `<svg>` of a figure with one pair of axes, or of several beside each other, which `draw` fills.

    `draw` gets the axes, or a list of them, which share the vertical one. `name` tells charts of a page apart,
    `label` is what a screen reader says. Raises ToolMissingError without matplotlib.
    """
    matplotlib, figures = _import()
    with warnings.catch_warnings(), matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        # A script that DejaVu has no glyphs for: the browser has, and the layout only guesses a little worse.
        warnings.filterwarnings("ignore", message=".*Glyph .* missing from")
        made = figures.Figure(figsize=(width_in, height_in), layout="constrained")
        draw(made.subplots(1, panels, sharey=True))
        buffer = io.StringIO()
        made.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return _embedded(buffer.getvalue(), label)


def alone(embedded: str) -> str:
    """Return a figure as a file of its own, with the page's colours."""
    return embedded.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace(
        ">", f">\n<style>\n{COLOURS}svg {{ background: var(--card); }}\n</style>\n", 1
    )


def require() -> None:
    """Raise ToolMissingError without matplotlib."""
    _import()


def printable(text: str) -> str:
    """Return the text with a replacement character for each that a page cannot show."""
    return "".join(one if one.isprintable() or one == "\n" else "\ufffd" for one in text)


def shortened(text: str, most: int) -> str:
    """Return the printable text, its middle left out where it has more than `most` characters."""
    text = printable(text).replace("\n", " ")
    if len(text) <= most:
        return text
    end = (most - 1) // 2
    return f"{text[: most - 1 - end]}\u2026{text[-end:]}"


def _embedded(document: str, label: str) -> str:
    content = printable(document[document.index("<svg") :])
    for noise in _NOISE:
        content = noise.sub("", content)
    for colour, variable in _VARIABLES.items():
        content = content.replace(colour, f"var(--{variable})")
    box = re.search(r'viewBox="([^"]+)"', content)
    inner = content[content.index(">") + 1 :]
    view = box.group(1) if box else "0 0 400 300"
    width = view.split()[2]
    said = html.escape(printable(label))
    return (
        f'<svg viewBox="{view}" style="max-width: {width}pt" role="img" aria-label="{said}" '
        f'xmlns:xlink="http://www.w3.org/1999/xlink">{inner.strip()}'
    )


def _import() -> tuple[Any, Any]:
    try:
        # It says on standard error that it builds its font cache.
        logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
        import matplotlib
        from matplotlib import figure as figures
    except ImportError as error:
        raise missing("matplotlib") from error
    return matplotlib, figures
