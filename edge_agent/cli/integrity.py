"""What `edge-agent verify` looks at on the disk: each check returns findings, each with what to do."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edge_agent.cli.checks import Finding
from edge_agent.cli.output import Progress, size
from edge_agent.control.trust_check import faults
from edge_agent.documents.plan import Plan, VersionPlan
from edge_agent.store import integrity
from edge_agent.store import state as state_file
from edge_agent.store.blobs import BlobStore
from edge_agent.store.layout import StateLayout
from edge_agent.store.state import DeployedState

REPAIR: Final = "'edge-agent sync --force' fetches it again"


@dataclass(frozen=True, slots=True)
class _Needed:
    version: VersionPlan
    role: str
    """Why the device keeps it: `serves`, `served before`, `is fetched`."""
    is_deployed: bool
    """Whether a sync would fetch it again."""


def state(layout: StateLayout) -> tuple[DeployedState, Iterator[Finding]]:
    """Return the deployed state, and whether it can be read."""
    found, problem = state_file.load(layout.state)
    if problem is not None:
        return found, iter([Finding("state", "fail", problem)])
    what = "is sound" if layout.state.exists() else "has no deployment yet"
    return found, iter([Finding("state", "ok", f"{layout.base} {what}")])


def files(state: DeployedState, layout: StateLayout, progress: Progress) -> Iterator[Finding]:
    """Whether each file that the device needs is what was signed: all are read."""
    blobs = BlobStore(layout)
    needed = {sha256: one for one in reversed(_needed(state)) for sha256 in one.version.files}
    total = sum(_size(blobs.path(sha256)) for sha256 in needed)
    done = faulty = 0
    for sha256, one in needed.items():
        progress.update(f"Reading {one.version.model} {one.version.version}", done, total)
        done += _size(blobs.path(sha256))
        if not blobs.verify(sha256):
            faulty += 1
            yield _damaged(one, sha256, blobs.has(sha256))
    progress.end()
    if not faulty:
        yield Finding("files", "ok", f"{len(needed)} files are what was signed ({size(total)})")


def trust(state: DeployedState, layout: StateLayout, root: str | None) -> Iterator[Finding]:
    """Whether the kept metadata is what was signed, from the root that came with the device on."""
    if root is None:
        yield Finding("trust", "ok", "no trusted root is set, so no metadata is kept")
        return
    plans = [plan for plan in (state.current, state.target) if plan is not None and plan.group]
    targets = {f"models/{version.model}/{version.version}.json" for plan in plans for version in plan.versions}
    targets |= {f"deployments/{plan.group}.json" for plan in plans}
    try:
        found = faults(layout.trust, Path(root).read_bytes(), sorted(targets))
    except OSError as error:
        yield Finding("trust", "fail", f"{error.filename} cannot be read: {error.strerror}.")
        return
    for fault in found:
        yield Finding("trust", "fail", f"{fault} A look at the store puts that right: edge-agent sync --force")
    if not found:
        yield Finding("trust", "ok", f"the metadata in {layout.trust} is what was signed")


def databases(layout: StateLayout) -> Iterator[Finding]:
    """Whether the events and the outcomes are whole."""
    for name, path in (("events", layout.events), ("outcomes", layout.outcomes)):
        damage = integrity.damage(path)
        if damage is None:
            yield Finding(name, "ok", f"{path} is sound" if path.exists() else f"{path} is not there yet")
            continue
        yield Finding(
            name,
            "fail",
            f"{path} is damaged ({damage}); restart the agent, which sets it aside and begins a new one, and "
            "check the disk.",
        )


def _needed(state: DeployedState) -> list[_Needed]:
    """Return what the device keeps files for, the most important first."""
    newest = (state.target or state.current).versions
    found = [_Needed(one, "serves", is_deployed=one in newest) for one in state.current.versions]
    found += [_Needed(one, "is fetched", is_deployed=True) for one in (state.target or Plan()).versions]
    kept = [*(state.previous or Plan()).versions, *(one for some in state.fallback.values() for one in some)]
    return found + [_Needed(one, "served before", is_deployed=one in newest) for one in kept]


def _damaged(one: _Needed, sha256: str, is_here: bool) -> Finding:
    version = one.version
    part = "model file" if sha256 == version.sha256 else "file of golden samples"
    how = "is damaged" if is_here else "is gone"
    remedy = REPAIR if one.is_deployed else "no rollback to it works until it is deployed again"
    return Finding(
        "files", "fail", f"{version.model} {version.version}, which {one.role}: its {part} {how}; {remedy}."
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
