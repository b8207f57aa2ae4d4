"""What the commands print: tables for people, JSON for programs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import singledispatch
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

from edge_agent.documents.deployment import Choice, Deployment, Groups, ModelDeployment
from edge_agent.policy.expiry import warnings
from edge_agent.policy.trusted_time import Times
from edge_fleet.deploy import Deployed, deployed_groups, read_deployment, read_groups
from edge_fleet.garbage import Collected
from edge_fleet.notify import Notified
from edge_fleet.publish import Published
from edge_fleet.refresh import Refreshed
from edge_fleet.repository import Contents
from edge_fleet.retire import Retired
from edge_fleet.verify import Verified

_WIDTH_IN_FILES: Final = 200


@dataclass(frozen=True, slots=True)
class Created:
    """A new store."""

    store: str
    keys: str
    root: str
    """The file that devices need as store.root."""


@dataclass(frozen=True, slots=True)
class PublishedAll:
    """What became of each package."""

    versions: tuple[Published, ...]


@dataclass(frozen=True, slots=True)
class GroupList:
    """The rules that map devices to groups."""

    groups: Groups


@dataclass(frozen=True, slots=True)
class Listing:
    """What a store holds."""

    models: dict[str, list[str]]
    """Published versions by model, sorted."""
    deployments: tuple[Deployment, ...]
    groups: Groups
    expires: dict[str, datetime]
    warnings: tuple[str, ...]


def listing(contents: Contents, now: datetime) -> Listing:
    """Read what a store holds."""
    expires = contents.expires
    models = {
        role.removeprefix("m-"): sorted(
            path.rpartition("/")[2].removesuffix(".json") for path in contents.targets(role)
        )
        for role in contents.delegated
        if role.startswith("m-")
    }
    deployments = [read_deployment(contents, group) for group in deployed_groups(contents)]
    return Listing(
        models=models,
        deployments=tuple(deployment for deployment in deployments if deployment is not None),
        groups=read_groups(contents),
        expires=expires,
        warnings=warnings({role: time.timestamp() for role, time in expires.items()}, Times(now)),
    )


def to_json(result: Any) -> Any:
    """Return a result as JSON-ready values."""
    return msgspec.to_builtins(
        result, enc_hook=lambda document: document.model_dump(mode="json", by_alias=True)
    )


@contextmanager
def progress(task: str, total_bytes: int, visible: bool) -> Iterator[Callable[[int], None]]:
    """Show a bar on a terminal's standard error; call what this gives with the length of each piece."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not (visible and console.is_terminal)
    ) as bar:
        number = bar.add_task(task, total=total_bytes)
        yield lambda size_bytes: bar.advance(number, size_bytes)


@singledispatch
def show(result: object) -> None:
    """Print a result for a person; colours only on a terminal."""
    raise TypeError(f"no way to show {type(result).__name__}")


@show.register
def _(created: Created) -> None:
    console = new_console()
    console.print(f"Created the store {created.store}; its private keys are in {created.keys}.")
    console.print("Keep the keys of root and targets offline, and back all of them up.")
    console.print(f"Devices trust the store by {created.root}: copy it to them and set store.root to its path.")


@show.register
def _(published: PublishedAll) -> None:
    table = new_table("model", "version", "state", "variants", "size", "uploaded")
    for version in published.versions:
        table.add_row(
            version.model,
            version.version,
            version.state,
            str(version.variants),
            _kib(version.size_bytes),
            _kib(version.uploaded_bytes),
        )
    new_console().print(table)


@show.register
def _(deployed: Deployed) -> None:
    before, after = deployed.before, deployed.after
    table = new_table("model", "before", "now")
    old = {} if before is None else _rows(before)
    new = _rows(after)
    for name in sorted(old | new):
        table.add_row(name, old.get(name, "-"), new.get(name, "-"))
    new_console().print(f"Group {after.group}, serial {after.serial}:")
    new_console().print(table)
    if deployed.notified is not None:
        new_console().print(f"Told the devices on {deployed.notified}.")


@show.register
def _(notified: Notified) -> None:
    hint = notified.hint
    within = f"within {hint.spread_s:g} s" if hint.spread_s else "at once"
    new_console().print(
        f"Told group {notified.group} on {notified.topic} to look {within} for serial {hint.serial}."
    )


@show.register
def _(listed: GroupList) -> None:
    table = new_table("labels", "group")
    for rule in listed.groups.rules:
        table.add_row(", ".join(f"{name}={value}" for name, value in rule.labels.items()) or "any", rule.group)
    table.add_row("all others", listed.groups.default)
    new_console().print(table)


@show.register
def _(refreshed: Refreshed) -> None:
    console = new_console()
    console.print(f"Signed again: {', '.join(refreshed.renewed)}.")
    if refreshed.left:
        console.print(f"Left, as their keys are not all in this folder: {', '.join(refreshed.left)}.")
    if "root" in refreshed.left:
        console.print(
            "A root of several people is renewed by edge-fleet rotate STORE root --renew --proposal FILE."
        )
    console.print(_expiry_table(refreshed.expires))
    for warning in refreshed.warnings:
        console.print(f"Warning: {warning}", style="yellow")


@show.register
def _(listed: Listing) -> None:
    console = new_console()
    versions = new_table("model", "versions")
    for name, published in listed.models.items():
        versions.add_row(name, ", ".join(published))
    console.print(versions)
    deployments = new_table("group", "serial", "model", "runs")
    for deployment in listed.deployments:
        for name, runs in _rows(deployment).items():
            deployments.add_row(deployment.group, str(deployment.serial), name, runs)
    console.print(deployments)
    console.print(_expiry_table(listed.expires))
    for warning in listed.warnings:
        console.print(f"Warning: {warning}", style="yellow")


@show.register
def _(verified: Verified) -> None:
    console = new_console()
    for finding in verified.findings:
        console.print(finding, style="red")
    for warning in verified.warnings:
        console.print(f"Warning: {warning}", style="yellow")
    verdict = "all is well" if not verified.findings else f"{len(verified.findings)} findings"
    console.print(
        f"Checked {verified.metadata} metadata files, {verified.targets} targets and {verified.blobs} blobs "
        f"({verified.size_bytes / 2**20:.1f} MiB): {verdict}."
    )


@show.register
def _(retired: Retired) -> None:
    table = new_table("model", "kept", "retired", "old, but deployed")
    for model in retired.models:
        ends = [model.retired[0], model.retired[-1]] if len(model.retired) > 2 else model.retired
        shown = f"{len(model.retired)}: {' … '.join(ends)}" if model.retired else "none"
        table.add_row(model.model, str(model.kept), shown, ", ".join(model.deployed) or "-")
    console = new_console()
    console.print(table)
    if retired.dry_run:
        console.print("Nothing was changed.")
    elif any(model.retired for model in retired.models):
        console.print("Their files are still there; edge-fleet gc removes them when no device can need them.")


@show.register
def _(collected: Collected) -> None:
    would = "Would remove" if collected.dry_run else "Removed"
    new_console().print(
        f"{would} {collected.metadata} metadata files, {collected.manifests} manifests, {collected.patches} "
        f"patches and {collected.blobs} blobs, {collected.freed_bytes / 2**20:.1f} MiB."
    )


def _rows(deployment: Deployment) -> dict[str, str]:
    """Return what runs of each model: the stable versions, and those of the candidate where they differ."""
    rows = {name: _arms(deployment.stable, name) for name in deployment.stable.models}
    candidate = deployment.candidate
    if candidate is not None:
        for name in sorted(set(rows) | set(candidate.models)):
            arms = _arms(candidate, name)
            if arms != rows.get(name):
                rollout = candidate.rollout
                when = f", in the window {rollout.window}" if rollout.window else ""
                share = f"{rollout.percentage:g} % of devices{when}: {arms}"
                rows[name] = f"{rows[name]}; {share}" if name in rows else share
    return dict(sorted(rows.items()))


def _arms(choice: Choice, name: str) -> str:
    if name not in choice.models:
        return "nothing"
    model = choice.models[name]
    total = sum(arm.weight for arm in model.arms)
    arms = [f"{arm.version} ({100 * arm.weight / total:.3g} %)" for arm in model.arms]
    return ", ".join(arms if len(arms) > 1 else [model.arms[0].version]) + _terms(model)


def _terms(model: ModelDeployment) -> str:
    """Return what is special about how a model is served, for example `; experiment a, epoch 2, by key`."""
    terms = []
    if model.experiment is not None:
        terms.append(f"experiment {model.experiment.name}, epoch {model.experiment.epoch}, by {model.unit}")
    if not model.cache.enabled:
        terms.append("cache off")
    elif model.cache.ttl_s is not None:
        terms.append(f"cached for {model.cache.ttl_s:g} s")
    return "".join(f"; {term}" for term in terms)


def _expiry_table(expires: dict[str, datetime]) -> Table:
    table = new_table("role", "expires (UTC)")
    for role, time in sorted(expires.items(), key=lambda item: item[1]):
        table.add_row(role, f"{time:%Y-%m-%d %H:%M}")
    return table


def new_table(*columns: str) -> Table:
    """Return an empty table."""
    return Table(*columns, box=None, header_style="bold", pad_edge=False)


def new_console() -> Console:
    """Return where results are printed: standard output, in colour on a terminal only."""
    console = Console(highlight=False, soft_wrap=True, markup=False)
    if not console.is_terminal:
        # What reads a pipe or a file would only be hindered by tables folded to 80 columns.
        console.width = _WIDTH_IN_FILES
    return console


def _kib(size_bytes: int) -> str:
    return f"{size_bytes / 1024:.1f} KiB"
