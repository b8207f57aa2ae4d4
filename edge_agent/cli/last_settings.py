"""The last valid settings, kept in the state folder, so that a bad edit does not stop a device from serving."""

from pathlib import Path

import msgspec

from edge_agent.cli.launch import lock_holder
from edge_agent.documents.errors import StorageError
from edge_agent.documents.settings import Settings
from edge_agent.store.files import write_atomically
from edge_agent.store.layout import StateLayout, state_layout

MODE = 0o600
"""For the agent's user alone: a URL may hold a password."""


class _Kept(msgspec.Struct, frozen=True):
    config: str
    """The settings file that they came from: those of another one are not ours to use."""
    settings: Settings


def keep(config: Path, settings: Settings) -> None:
    """Store valid settings, if they are new and no other agent holds the folder.

    Raises StorageError where the disk refuses.
    """
    layout = state_layout(settings.paths)
    if recall(config, layout.base) == settings or lock_holder(layout.lock) is not None:
        return
    layout.create()
    write_atomically(_file(layout), msgspec.json.encode(_Kept(str(config), settings)), MODE)


def recall(config: Path, state_folder: Path) -> Settings | None:
    """Return the last valid settings that came from this file, or None if there are none."""
    try:
        kept = msgspec.json.decode(_file(StateLayout(state_folder)).read_bytes(), type=_Kept)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return kept.settings if kept.config == str(config) else None


def try_to_keep(config: Path, settings: Settings) -> str:
    """Store valid settings; return why that did not work, or an empty string."""
    try:
        keep(config, settings)
    except StorageError as error:
        return str(error)
    return ""


def _file(layout: StateLayout) -> Path:
    return layout.base / "settings.json"
