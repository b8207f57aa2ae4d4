"""Objects that a user names as `package.module:name`."""

import importlib
import re
import sys
from pathlib import Path
from typing import Any, Final

from edge_agent.documents.errors import ModelError

_REFERENCE: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def is_reference(text: str) -> bool:
    """Say whether this is of the form `package.module:name`."""
    return _REFERENCE.fullmatch(text) is not None


def imported(reference: str, folder: str = ".") -> Any:
    """Return what `package.module:name` names; raises ModelError.

    The folder stays on the path of imports, since the code may import more of its own when it is called.
    """
    module_name, _, name = reference.partition(":")
    place = str(Path(folder).resolve())
    if place not in sys.path:
        sys.path.insert(0, place)
    importlib.invalidate_caches()
    try:
        found = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise ModelError(
                f"There is no module {module_name} in {place}; name the folder that it is imported from."
            ) from error
        raise ModelError(f"{module_name} imports {error.name}, which is not installed; install it.") from error
    except Exception as error:
        raise ModelError(f"Importing {module_name} fails with {said(error)}; repair it first.") from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise ModelError(f"{module_name} has no {name}; give `package.module:name` of what is there.")
        found = getattr(found, part)
    return found


def said(error: BaseException) -> str:
    """Return an error's kind and the first line of its message, without a stop, to build a sentence from."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].rstrip('. :')}" if lines else type(error).__name__
