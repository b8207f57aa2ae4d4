"""Functions that the caller wrote, named as `package.module:function`."""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edge_agent.documents.errors import RequestError


def is_importable(reference: str) -> bool:
    """Say whether this is `package.module:name` rather than a path."""
    module, separator, name = reference.partition(":")
    return bool(separator) and name.isidentifier() and all(part.isidentifier() for part in module.split("."))


def imported(reference: str, folder: Path) -> Callable[..., Any]:
    """Import a function from a module that lies in `folder` or is installed.

    Raises RequestError when there is no such module or function, or when its module cannot be imported.
    """
    module_name, _, name = reference.partition(":")
    try:
        with _first_on_path(folder):
            module = importlib.import_module(module_name)
    except Exception as error:
        raise RequestError(
            f"Cannot import {module_name} for {reference} from {folder} ({said(error)}); check the name and "
            "import_from."
        ) from error
    found = getattr(module, name, None)
    if not callable(found):
        raise RequestError(f"The module {module_name} has no function '{name}'; check the name.")
    function: Callable[..., Any] = found
    return function


def said(error: BaseException) -> str:
    """Return what an exception of the caller's own code says, in one line."""
    text = " ".join(str(error).split()).rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@contextmanager
def _first_on_path(folder: Path) -> Iterator[None]:
    place = str(folder.absolute())
    sys.path.insert(0, place)
    # A module that was written a moment ago is not found from the cached listing of its folder.
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(place)
