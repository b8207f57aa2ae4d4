"""The deployed state in memory, and its copy on disk, which catches up when the disk refused it."""

import dataclasses
from pathlib import Path
from typing import Any

from edge_agent.documents.errors import StorageError
from edge_agent.store import state as state_file
from edge_agent.store.state import DeployedState


class DurableState:
    """Holds the state; `change` replaces it and writes it through."""

    def __init__(self, path: Path, value: DeployedState) -> None:
        self._path = path
        self._dirty = False
        self.value = value
        self.problem: str | None = None
        """Why the state cannot be stored now, or None."""

    def change(self, **fields: Any) -> None:
        """Replace fields of the state and store it; where the disk refuses, `flush` tries again."""
        self.value = dataclasses.replace(self.value, **fields)
        self._dirty = True
        self.flush()

    def flush(self) -> None:
        """Store the state if it is newer than its file."""
        if not self._dirty:
            return
        try:
            state_file.save(self._path, self.value)
        except StorageError as error:
            self.problem = str(error)
        else:
            self._dirty = False
            self.problem = None
