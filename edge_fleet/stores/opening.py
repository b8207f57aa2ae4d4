"""Opens the store that an operator names: a folder, or a URL of what fsspec reaches."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from edge_fleet.stores.base import StoreFiles
from edge_fleet.stores.folder import FolderFiles


def open_files(store: "StoreFiles | Path | str") -> StoreFiles:
    """Return the files of a store; raises OperatorError if what reaches it is not installed."""
    if isinstance(store, StoreFiles):
        return store
    if isinstance(store, Path) or "://" not in store:
        return FolderFiles(Path(store).expanduser())
    if store.startswith("file://"):
        return FolderFiles(Path(unquote(urlsplit(store).path)))
    # fsspec and what it brings are loaded for those alone who have such a store.
    from edge_fleet.stores.objects import ObjectFiles

    return ObjectFiles(store)
