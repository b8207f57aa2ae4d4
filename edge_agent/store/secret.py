"""The device's secret: random bytes that authenticate what it gave out itself."""

import secrets
from contextlib import suppress
from pathlib import Path
from typing import Final

from edge_agent.documents.errors import StorageError
from edge_agent.store.files import write_atomically

_SIZE_BYTES: Final = 32


def load_secret(path: Path) -> str:
    """Return the secret as hexadecimal, and make one where there is none or it is damaged.

    Where the disk refuses to keep a new one, it holds for this run alone.
    """
    with suppress(OSError):
        kept = path.read_bytes()
        if len(kept) == _SIZE_BYTES:
            return kept.hex()
    secret = secrets.token_bytes(_SIZE_BYTES)
    with suppress(StorageError):
        write_atomically(path, secret, mode=0o600)
    return secret.hex()
