"""What the caller wrote, named as `package.module:name`: factories, losses, metrics, data."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from converters.errors import said
from edge_agent.documents.errors import RequestError


def is_importable(reference: str) -> bool:
    """Say whether this is `package.module:name` rather than a path."""
    module, separator, name = reference.partition(":")
    return bool(separator) and all(part.isidentifier() for part in (*module.split("."), *name.split(".")))


def imported(reference: str, folder: Path) -> Callable[..., Any]:
    """Import what can be called from a module that lies in `folder` or is installed.

    The folder stays on the path of imports, since the code may import more of its own when it is called.
    Raises RequestError when there is no such module or function, or when its module cannot be imported.
    """
    module_name, _, name = reference.partition(":")
    add_to_path(folder)
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        raise RequestError(
            f"Cannot import {module_name} for {reference} from {folder} ({said(error)}); check the name and "
            "import_from."
        ) from error
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise RequestError(f"The module {module_name} has no function '{name}'; check the name.")
    function: Callable[..., Any] = found
    return function


def add_to_path(folder: Path) -> None:
    """Let modules of a folder be imported from now on."""
    place = str(folder.absolute())
    if place not in sys.path:
        sys.path.insert(0, place)
    # A module that was written a moment ago is not found from the cached listing of its folder.
    importlib.invalidate_caches()
