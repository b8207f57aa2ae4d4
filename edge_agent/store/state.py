"""The deployed state: what runs, what ran before, what is wanted, and what was learnt about each file.

`state.json`, and `state.json.prev` for when that cannot be read. Written by the supervisor alone. What cannot
be read does not become the state before: it is set aside as `state.json.damaged`.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from edge_agent.documents.plan import Plan, VersionPlan
from edge_agent.policy.attempts import Attempt, Interruptions
from edge_agent.policy.crashes import Incident
from edge_agent.policy.guardrails import Bake
from edge_agent.policy.reconcile import identity
from edge_agent.store.files import mapping_os_errors, write_atomically

STATE_SCHEMA = 2
"""1 had of `passed` the keys alone, and of `quarantine` the reasons."""

_UNREADABLE = (OSError, msgspec.MsgspecError, UnicodeDecodeError)
"""How a file fails to be read; msgspec tells text that is not UTF-8 by Python's own error."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What the probe found of a version that passed, on this device."""

    runtime: str = ""
    """Runtime and version that ran it."""
    load_s: float = 0.0
    run_s: float = 0.0
    """Median seconds of one run."""
    peak_bytes: int = 0
    """Highest resident size of the probe, the runtime included."""
    time_s: float = 0.0
    """When, Unix time."""


@dataclass(frozen=True, slots=True)
class Quarantined:
    """Why a file shall not run here, since when, who says so, and what it was deployed as."""

    reason: str
    model: str = ""
    version: str = ""
    time_s: float = 0.0
    """Unix time."""
    actor: str = "agent"


@dataclass(frozen=True, slots=True)
class DeployedState:
    """What the agent must remember over a restart."""

    current: Plan = field(default_factory=Plan)
    previous: Plan | None = None
    """What an operator's rollback returns to."""
    fallback: dict[str, tuple[VersionPlan, ...]] = field(default_factory=dict)
    """By model, the versions that served before its present ones."""
    target: Plan | None = None
    """Fetched whole, not yet activated."""
    passed: dict[str, Measured] = field(default_factory=dict)
    """The versions of these plans that passed their probe here, by key."""
    quarantine: dict[str, Quarantined] = field(default_factory=dict)
    """Files that shall not run here, by sha256."""
    incidents: tuple[Incident, ...] = ()
    """Crashes and hangs that are charged to versions that still run."""
    doubted: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Files in quarantine that may not be to blame, by sha256: the keys of those that ran at the same time."""
    attempt: Attempt | None = None
    """What is being loaded."""
    interruptions: dict[str, Interruptions] = field(default_factory=dict)
    """Versions, by key, whose loads did not come to an end."""
    held: str | None = None
    """Identity of the plan that was gone back from, or given up before it served; not activated by itself."""
    held_reason: str | None = None
    """Why the agent itself did that, a sentence; None where an operator has rolled back."""
    bake: Bake | None = None
    """The trial that the current plan is on."""
    untold: str | None = None
    """What is to be told once the plan that was gone back to serves."""
    schema: int = STATE_SCHEMA

    @property
    def is_previous_held(self) -> bool:
        """Whether the plan that is held is the previous one, so that a rollback brings it back."""
        return self.previous is not None and self.held == identity(self.previous)

    @property
    def versions(self) -> tuple[VersionPlan, ...]:
        """All versions that it names: what runs, what ran before, what models fall back to, what is fetched."""
        return tuple(self._versions())

    def _versions(self) -> Iterator[VersionPlan]:
        for plan in (self.current, self.target, self.previous):
            yield from plan.versions if plan is not None else ()
        for kept in self.fallback.values():
            yield from kept


def load(path: Path) -> tuple[DeployedState, str | None]:
    """Return the state and, where the newest file could not be used, one sentence that says so.

    Never raises: a device without a readable state starts empty and asks its store.
    """
    older = previous_path(path)
    try:
        if not path.exists() and not older.exists():
            return DeployedState(), None
        return _read(path), None
    except _UNREADABLE as error:
        reason = f"{path} could not be read ({error})"
    try:
        return _read(older), f"{reason}; the state before it is used."
    except _UNREADABLE:
        return DeployedState(), f"{reason}, nor could {older}; starting empty until the store answers."


def save(path: Path, state: DeployedState) -> None:
    """Replace the state durably, keeping the one before; raises StorageError, then nothing has changed."""
    content = msgspec.json.format(msgspec.json.encode(state), indent=1)
    with mapping_os_errors(path):
        _keep(path)
    write_atomically(path, content, mode=0o640)


def previous_path(path: Path) -> Path:
    """Return where the state before the newest lies."""
    return path.with_name(f"{path.name}.prev")


def _keep(path: Path) -> None:
    """Make the newest state the one before; one that cannot be read must not take the place of a sound one."""
    if not path.exists():
        return
    try:
        _read(path)
    except _UNREADABLE:
        path.replace(path.with_name(f"{path.name}.damaged"))
        return
    link = path.with_name(f".{path.name}.keep")
    link.unlink(missing_ok=True)
    os.link(path, link)
    link.replace(previous_path(path))


def _read(path: Path) -> DeployedState:
    content = path.read_bytes()
    schema = msgspec.json.decode(content, type=_Head).schema
    if schema == 1:
        content = _from_schema_1(content)
    elif schema != STATE_SCHEMA:
        raise msgspec.DecodeError(f"schema {schema} is not {STATE_SCHEMA}")
    return msgspec.json.decode(content, type=DeployedState)


class _Head(msgspec.Struct):
    schema: int = STATE_SCHEMA


def _from_schema_1(content: bytes) -> bytes:
    """Bring a state of schema 1 into the form of 2; those of a time between have parts of it already."""
    state: dict[str, Any] = msgspec.json.decode(content, type=dict[str, Any])
    passed, quarantine = state.get("passed", {}), state.get("quarantine", {})
    if isinstance(passed, list):
        passed = {key: Measured() for key in passed}
    if isinstance(quarantine, dict):
        quarantine = {
            sha256: Quarantined(entry) if isinstance(entry, str) else entry
            for sha256, entry in quarantine.items()
        }
    migrated = {**state, "passed": passed, "quarantine": quarantine, "schema": STATE_SCHEMA}
    return msgspec.json.encode(migrated)
