"""A store as the commands use it: read at any time, written inside `editing`."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from edge_agent.documents.deployment import GROUPS_TARGET, Groups
from edge_agent.documents.errors import NotFoundError, OperatorError, StorageError
from edge_fleet.keys import KeyFolder
from edge_fleet.stores.base import StoreFiles
from edge_fleet.stores.opening import open_files
from edge_fleet.trust.contents import (
    DEPLOYMENTS,
    ONLINE,
    ROOT_FILE,
    TIMESTAMP_FILE,
    TOP_LEVEL,
    Contents,
    metadata_name,
)
from edge_fleet.trust.edit import Edit, first_metadata
from edge_fleet.trust.pinning import Pin, find_pin, keep_pin
from edge_fleet.trust.reading import check_unfinished, read_contents
from edge_fleet.trust.signers import create_signers

__all__ = ["DEPLOYMENTS", "ONLINE", "TOP_LEVEL", "Contents", "Edit", "Repository"]


class Repository:
    """A store: its files, and its signed metadata."""

    def __init__(self, store: StoreFiles | Path | str) -> None:
        self.files = open_files(store)
        self.expires: dict[str, datetime] = {}
        """When each role expires, as last read or written; for warnings."""

    @property
    def root_file(self) -> str:
        """Where a copy of the newest root lies, for devices to start from."""
        return f"{self.files}/{ROOT_FILE}"

    def exists(self) -> bool:
        """Say whether there is a store in this place."""
        return self.files.exists(TIMESTAMP_FILE)

    def read(self) -> Contents:
        """Return what the store holds now.

        Raises NotFoundError if there is none, StorageError if it is not as it was signed.
        """
        self.check_exists()
        return self._read(None, mending=False)

    def check_exists(self) -> None:
        """Raise NotFoundError if there is no store in this place, StorageError if it was beheaded."""
        if self.exists():
            return
        if self.files.exists(metadata_name("root", 1)):
            raise StorageError(
                f"{self.files} lacks {TIMESTAMP_FILE}: restore it from a backup, or run edge-fleet init again "
                "if that was cut off there."
            )
        raise NotFoundError(f"{self.files} is not a store: create it with edge-fleet init.")

    @contextmanager
    def editing(self, keys: KeyFolder, now: datetime, mending: bool = False) -> Iterator[Edit]:
        """Lock the store and change it: what was changed is signed and published when the block ends.

        What is not as it was signed is refused, and what does not follow what the folder of keys knows. While
        `mending`, roles may lag behind a root whose publishing was cut off.
        """
        self.check_exists()
        self._check_outside(keys)
        with self.files.locked():
            pin = find_pin(keys, self.files)
            edit = Edit(self.files, self._read(pin, mending), keys, now)
            yield edit
            edit.commit()
            keep_pin(keys, pin, edit.contents)
            self.expires = edit.contents.expires

    def create(self, keys: KeyFolder, now: datetime, threshold: int = 1) -> None:
        """Make a new, empty store, and the keys that are not there yet.

        `threshold` is how many of the keys of root must sign the next root.
        """
        self._check_outside(keys)
        with self.files.locked():
            if self.exists():
                raise OperatorError(
                    f"{self.files} is a store already: publish to it, or choose another folder."
                )
            first = first_metadata(keys, threshold)
            check_unfinished(self.files, first["root"].signed)
            edit = Edit(self.files, Contents(self.files, first), keys, now)
            edit.renew("root")
            edit.renew("targets")
            edit.delegate(DEPLOYMENTS, "deployments/*", lambda: create_signers(keys, DEPLOYMENTS))
            edit.put_target(DEPLOYMENTS, GROUPS_TARGET, Groups().model_dump_json(by_alias=True).encode())
            edit.commit()
            keep_pin(keys, None, edit.contents)

    def _read(self, pin: Pin | None, mending: bool) -> Contents:
        contents = read_contents(self.files, pin, mending)
        self.expires = contents.expires
        return contents

    def _check_outside(self, keys: KeyFolder) -> None:
        if self.files.folder is not None:
            keys.check_outside(self.files.folder)
