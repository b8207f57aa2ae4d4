"""Whether a database on this device is whole, without changing anything in it."""

import sqlite3
from contextlib import closing
from pathlib import Path


def damage(path: Path) -> str | None:
    """Return what SQLite finds wrong with a database, None if nothing; there may also be no database yet.

    For another process than the writer's, which this never blocks; it reads the whole file.
    """
    if not path.exists():
        return None
    try:
        with closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5.0)
        ) as connection:
            found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    except sqlite3.Error as error:
        return str(error)
    return None if found == "ok" else str(found)
