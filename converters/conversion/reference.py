"""The tables of a recipe's keys.

`python -m converters.conversion.reference docs/converters.md` writes them into the page.

They are made from the settings' dataclasses and the texts below their fields, so that they cannot go stale.
"""

import ast
import dataclasses
import inspect
import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints

import annotated_types

from converters.conversion.recipe import Recipe

BEGIN: Final = "<!-- Made by `python -m converters.conversion.reference docs/converters.md`; do not edit. -->"
END: Final = "<!-- End of what is made. -->"

_SIGNS: Final = {
    annotated_types.Ge: "≥",
    annotated_types.Gt: ">",
    annotated_types.Le: "≤",
    annotated_types.Lt: "<",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Key:
    """One key of a section."""

    name: str
    default: str
    """As TOML has it; empty where there is none."""
    meaning: str


def sections(kind: type[Any] = Recipe, prefix: str = "") -> Iterator[tuple[str, list[Key]]]:
    """Yield each section's name, empty for the recipe's own keys, and its keys, outer ones first."""
    hints, texts = get_type_hints(kind, include_extras=True), attribute_docstrings(kind)
    inner: list[tuple[str, type[Any]]] = []
    keys = []
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        section = next((one for one in _parts(hint) if dataclasses.is_dataclass(one)), None)
        if isinstance(section, type):
            inner.append((f"{prefix}{field.name}", section))
        else:
            keys.append(Key(field.name, _default(field), _meaning(texts.get(field.name, ""), hint)))
    if keys:
        yield prefix.rstrip("."), keys
    for name, section in inner:
        yield from sections(section, f"{name}.")


def render() -> str:
    """Return the tables as Markdown, the same for the same code."""
    parts = []
    for name, keys in sections():
        title = f"**`[{name}]`**" if name else "**At the top**"
        lines = [f"| `{key.name}` | {key.default} | {key.meaning} |" for key in keys]
        parts.append("\n".join((title, "", "| key | default | what it says |", "|---|---|---|", *lines)))
    return "\n\n".join(parts)


def filled(page: str) -> str:
    """Return a page with the tables between its marks; raises ValueError for a page without them."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"The page lacks the marks {BEGIN} and {END}.")
    return f"{before}{BEGIN}\n\n{render()}\n\n{END}{after}"


def attribute_docstrings(kind: type[Any]) -> dict[str, str]:
    """Return the text below each attribute of a class, as PEP 257 calls attribute docstrings."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for before, after in zip(body.body, body.body[1:], strict=False):
        if isinstance(before, ast.AnnAssign) and isinstance(after, ast.Expr):
            assert isinstance(before.target, ast.Name)
            assert isinstance(after.value, ast.Constant)
            found[before.target.id] = " ".join(inspect.cleandoc(str(after.value.value)).split())
    return found


def _parts(hint: Any) -> Iterator[Any]:
    """Yield a type, or the members of a union, without what is noted about them."""
    if get_origin(hint) is Annotated:
        yield from _parts(get_args(hint)[0])
    elif get_origin(hint) in (Union, UnionType):
        for one in get_args(hint):
            yield from _parts(one)
    else:
        yield hint


def _default(field: dataclasses.Field[Any]) -> str:
    value = field.default_factory() if callable(field.default_factory) else field.default
    if value is None or value in ("", (), {}):
        return ""
    if isinstance(value, float) and value == 1 / 255:
        return "`1/255`"
    return f"`{json.dumps(value)}`"


def _meaning(text: str, hint: Any) -> str:
    """Return a key's text with what is allowed, in a cell of a table."""
    full = "; ".join(one for one in (text.rstrip("."), *_choices(hint), *_bounds(hint)) if one)
    return f"{full[:1].upper()}{full[1:]}.".replace("|", "\\|")


def _choices(hint: Any) -> Iterator[str]:
    for one in _parts(hint):
        if get_origin(one) is Literal:
            yield "one of " + ", ".join(f"`{choice}`" for choice in get_args(one))


def _bounds(hint: Any) -> Iterator[str]:
    pending = [hint]
    while pending:
        one = pending.pop(0)
        if get_origin(one) is Annotated:
            notes = [note for note in one.__metadata__ if type(note) in _SIGNS]
            if notes:
                yield " and ".join(f"{_SIGNS[type(note)]} {dataclasses.astuple(note)[0]:g}" for note in notes)
        elif get_origin(one) in (Union, UnionType):
            pending += get_args(one)


def main(path: Path) -> None:
    """Write the tables into a page."""
    path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m converters.conversion.reference PAGE.md")
    main(Path(sys.argv[1]))
