"""Reads a database that another process writes, which this never blocks."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from edge_agent.documents.errors import StorageError


@contextmanager
def reading(path: Path, what: str, timeout_s: float = 1.0) -> Iterator[sqlite3.Connection | None]:
    """Open a database to read `what`, a noun in the plural; None if there is no database yet.

    Raises StorageError when it cannot be read, also while it is open.
    """
    try:
        if not path.exists():
            yield None
            return
        location = f"{path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(location, uri=True, timeout=timeout_s)) as connection:
            yield connection
    except (sqlite3.Error, OSError) as error:
        raise StorageError(f"The {what} in {path} cannot be read ({error}): check its disk.") from error
