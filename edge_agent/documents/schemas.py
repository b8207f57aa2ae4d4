"""JSON Schemas of the documents: `python -m edge_agent.documents.schemas DIR` writes one file for each.

For editors that complete and check `config.toml`, and for programs in other languages that read our documents.
"""

import ast
import inspect
import json
import sys
import textwrap
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter

from edge_agent.documents import deployment, manifest, messages, settings

DOCUMENTS: Final[dict[str, type[Any]]] = {
    "manifest": manifest.Manifest,
    "deployment": deployment.Deployment,
    "groups": deployment.Groups,
    "settings": settings.Settings,
    "event": messages.Event,
    "reported": messages.Reported,
}

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_MODULES = (deployment, manifest, messages, settings)


def schema(name: str) -> dict[str, Any]:
    """Return the JSON Schema of a document by its name in `DOCUMENTS`."""
    generated = TypeAdapter(DOCUMENTS[name]).json_schema(mode="validation")
    for part in (generated, *generated.get("$defs", {}).values()):
        describe(part)
        if name == "settings" and "properties" in part:
            # Unknown fields of signed documents are ignored; unknown settings are errors.
            part["additionalProperties"] = False
    return {"$schema": _DIALECT, **generated}


def render(name: str) -> str:
    """Return the schema as the text of a file, the same for the same code."""
    return json.dumps(schema(name), indent=2, sort_keys=True) + "\n"


def write(folder: Path) -> list[Path]:
    """Write all schemas into a folder and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in DOCUMENTS:
        path = folder / f"{name}.json"
        path.write_text(render(name), encoding="utf-8")
        paths.append(path)
    return paths


def attribute_docstrings(cls: type[Any]) -> dict[str, str]:
    """Return the text below each attribute of a class, as PEP 257 calls attribute docstrings."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for before, after in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(before, ast.AnnAssign)
            and isinstance(before.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
            and isinstance(after.value.value, str)
        ):
            found[before.target.id] = " ".join(inspect.cleandoc(after.value.value).split())
    return found


def describe(part: dict[str, Any]) -> None:
    """Add the attribute docstrings of the class that an object schema was made from."""
    cls = next((vars(module)[part["title"]] for module in _MODULES if part.get("title") in vars(module)), None)
    if cls is None or "properties" not in part:
        return
    for name, text in attribute_docstrings(cls).items():
        part["properties"].get(name.removesuffix("_"), {}).setdefault("description", text)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m edge_agent.documents.schemas DIR")
    write(Path(sys.argv[1]))
