"""Whether the metadata that is kept on this device is still what was signed, looked at without a network.

The client's workflow runs over the kept files as if they were the store's, as of a time before they expire:
that they are old is no damage.
"""

from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from edge_agent.control.fetch import StoreFileMissingError
from edge_agent.control.trusted_files import contents_of, read_marks, role_of
from edge_agent.control.tuf_updater import TufUpdater
from edge_agent.documents.errors import EdgeAgentError
from edge_agent.policy.trusted_time import Times

_LONG_AGO: Final = Times(datetime.fromtimestamp(0, UTC))


def faults(trust: Path, bootstrap: bytes, targets: Collection[str]) -> list[str]:
    """Return what is wrong with the metadata in a trust folder, one sentence each; raises OSError.

    `bootstrap` is the content of the root.json that came with the device, `targets` the paths of signed
    documents that this device runs by, whose roles are looked at with the others.
    """
    _, damage = read_marks(trust)
    found = [damage] if damage is not None else []
    folder = (trust / "current").resolve()
    kept = {_name(name): content for name, content in contents_of(folder).items()}
    if not kept:
        return found
    try:
        updater = TufUpdater(folder, bootstrap, lambda url, _: _kept(kept, url), lambda _: _LONG_AGO)
        updater.refresh()
        for target in targets:
            updater.find(target)  # verifies the roles that may sign it; a retired version is signed no more
    except EdgeAgentError as error:
        found.append(f"The metadata in {folder} is not what was signed: {error}")
    return found


def _name(path: str) -> str:
    return path if path.startswith("root_history/") else role_of(Path(path))


def _kept(kept: dict[str, bytes], url: str) -> bytes:
    name = Path(url).name
    key = f"root_history/{name}" if name.endswith(".root.json") else role_of(Path(name))
    if key not in kept:
        raise StoreFileMissingError(f"{name} is not kept on this device.")
    return kept[key]
