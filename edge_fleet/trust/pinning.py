"""The root that a folder of keys trusts: who signs follows a store's roots from there on, as devices do.

So nobody who can write to the store, but has no keys, gets others to sign what its own root never allowed.
"""

from contextlib import suppress
from typing import Final

from tuf.api.metadata import Root

from edge_agent.documents.errors import StorageError
from edge_agent.store.files import write_atomically
from edge_fleet.keys import KeyFolder
from edge_fleet.trust.roots import read_root

PIN_FILE: Final = "trusted-root"


def pinned_root(keys: KeyFolder) -> Root | None:
    """Return the root that was published or followed last with these keys; None if there was none yet.

    Raises RequestError or StorageError if it cannot be read.
    """
    path = keys.path / PIN_FILE
    return read_root(path) if path.exists() else None


def pin_root(keys: KeyFolder, content: bytes) -> None:
    """Trust this root from now on; a folder that cannot be written keeps the one before, which leads here."""
    path = keys.path / PIN_FILE
    if path.exists() and path.read_bytes() == content:
        return
    with suppress(StorageError):
        write_atomically(path, content, mode=0o600)
