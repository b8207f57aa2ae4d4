"""What a folder of keys knows of the stores that it signs: who signs follows them from there, as devices do.

So nobody who can write to a store, but has no keys, gets others to sign what its root never allowed, or what
was replaced long ago.
"""

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tuf.api.metadata import Root, Timestamp

from edge_agent.documents.errors import OperatorError, StorageError
from edge_agent.store.files import mapping_os_errors, write_atomically
from edge_fleet.keys import KeyFolder
from edge_fleet.stores.base import MissingFileError, StoreFiles
from edge_fleet.trust.contents import Contents, metadata_name, parse
from edge_fleet.trust.roots import read_root

FOLDER: Final = "trusted"
_ROOT: Final = ".root.json"
_TIMESTAMP: Final = ".timestamp.json"


@dataclass(frozen=True, slots=True)
class Pin:
    """The root and the timestamp of a store that were published or followed last with these keys."""

    root_file: Path
    root: Root

    @property
    def timestamp_file(self) -> Path:
        """Where the timestamp lies, if one was kept."""
        return self.root_file.with_name(self.root_file.name.removesuffix(_ROOT) + _TIMESTAMP)

    def check_newer(self, contents: Contents) -> None:
        """Raise StorageError if a store holds an older timestamp than was seen; new keys for it begin anew."""
        root = contents.roles["root"].signed
        if not self.timestamp_file.exists() or _timestamp_keys(root) != _timestamp_keys(self.root):
            return
        try:
            seen = parse(self.timestamp_file.read_bytes(), str(self.timestamp_file)).signed
        except OSError as error:
            raise OperatorError(f"{self.timestamp_file} cannot be read: {error.strerror}.") from error
        found: Timestamp = contents.roles["timestamp"].signed
        if found.version < seen.version:
            raise StorageError(
                f"The store was set back: its timestamp has version {found.version}, and these keys know "
                f"{seen.version}; restore what is newer, or remove {self.timestamp_file} if that is meant."
            )


def find_pin(keys: KeyFolder, files: StoreFiles) -> Pin | None:
    """Return what a folder of keys knows of a store; None if it knows no store at all yet.

    Raises StorageError if it knows other stores alone, RequestError or StorageError if a root cannot be read.
    """
    pins = [Pin(path, read_root(path)) for path in sorted((keys.path / FOLDER).glob(f"*{_ROOT}"))]
    here = [pin for pin in pins if _leads_to(pin.root, files)]
    if pins and not here:
        raise StorageError(
            f"No root in {keys.path / FOLDER} leads to {files}, which was set back, forged, or is another "
            f"store: if it is yours, put its root there, from who you trust, as NAME{_ROOT}."
        )
    return max(here, key=lambda pin: pin.root.version, default=None)


def keep_pin(keys: KeyFolder, pin: Pin | None, contents: Contents) -> None:
    """Know this store as it is now; a folder that cannot be written keeps what it knew, which leads here."""
    path = keys.path / FOLDER / f"{_name(contents)}{_ROOT}" if pin is None else pin.root_file
    kept = Pin(path, contents.roles["root"].signed)
    with suppress(StorageError):
        with mapping_os_errors(path.parent):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for file, content in ((path, contents.root_bytes), (kept.timestamp_file, contents.timestamp_bytes)):
            if not file.exists() or file.read_bytes() != content:
                write_atomically(file, content, mode=0o600)


def _name(contents: Contents) -> str:
    return hashlib.sha256(contents.root_bytes).hexdigest()[:16]


def _leads_to(root: Root, files: StoreFiles) -> bool:
    name = metadata_name("root", root.version)
    try:
        return bool(parse(files.read(name), f"{files}/{name}").signed == root)
    except MissingFileError:
        return False


def _timestamp_keys(root: Root) -> set[str]:
    return set(root.roles["timestamp"].keyids)
