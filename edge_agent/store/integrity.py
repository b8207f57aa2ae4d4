"""Whether a database on this device is whole, without changing anything in it."""

from pathlib import Path

from edge_agent.documents.errors import StorageError
from edge_agent.store.reading import reading


def damage(path: Path) -> str | None:
    """Return what SQLite finds wrong with a database, None if nothing; there may also be no database yet.

    For another process than the writer's, which this never blocks; it reads the whole file.
    """
    try:
        with reading(path, "pages", timeout_s=5.0) as connection:
            if connection is None:
                return None
            found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    except StorageError as error:
        return str(error.__cause__)
    return None if found == "ok" else str(found)
