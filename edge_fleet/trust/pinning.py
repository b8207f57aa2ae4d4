"""The root that a folder of keys trusts: who signs follows a store's roots from there on, as devices do.

So nobody who can write to the store, but has no keys, gets others to sign what its own root never allowed.
"""

from contextlib import suppress
from typing import Final

from edge_agent.documents.errors import OperatorError, StorageError
from edge_agent.store.files import write_atomically
from edge_fleet.keys import KeyFolder

PIN_FILE: Final = "trusted-root"


def pinned_root(keys: KeyFolder) -> bytes | None:
    """Return the root that was published or followed last with these keys; None if there was none yet."""
    path = keys.path / PIN_FILE
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OperatorError(f"The root {path} cannot be read: {error.strerror}.") from error


def pin_root(keys: KeyFolder, content: bytes) -> None:
    """Trust this root from now on; a folder that cannot be written keeps the one before, which leads here."""
    if pinned_root(keys) == content:
        return
    with suppress(StorageError):
        write_atomically(keys.path / PIN_FILE, content, mode=0o600)
