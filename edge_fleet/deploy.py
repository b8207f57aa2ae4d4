"""Chooses what a group of devices runs, and which devices form a group."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from edge_agent import __version__
from edge_agent.documents.deployment import (
    GROUPS_TARGET,
    MAX_BAKE_S,
    Arm,
    Candidate,
    Choice,
    Deployment,
    GroupRule,
    Groups,
    ModelDeployment,
    Rollout,
    deployment_path,
)
from edge_agent.documents.errors import RequestError
from edge_agent.documents.reading import read_document
from edge_agent.documents.windows import windows_problem
from edge_fleet.experiments import Draw, Terms, past_epochs, settle
from edge_fleet.keys import KeyFolder
from edge_fleet.publish import model_role
from edge_fleet.repository import DEPLOYMENTS, Contents, Repository

Models = Mapping[str, ModelDeployment]


@dataclass(frozen=True, slots=True)
class Change:
    """What to change in a group's deployment."""

    models: Models = field(default_factory=dict)
    """Models to run, beside those that the group runs already."""
    remove: frozenset[str] = frozenset()
    replace: bool = False
    """Run only `models`; forget what the group ran."""
    candidate: Models = field(default_factory=dict)
    """Models of which some devices shall run other versions."""
    percentage: float | None = None
    """Share of devices that run the candidate; None keeps what is set."""
    window: str | None = None
    """When devices may activate the candidate; None keeps what is set, "" removes it."""
    drop_candidate: bool = False
    bake_s: float | None = None
    """How long new versions are on trial on a device; None keeps what is set."""
    serial: int | None = None
    """None counts on from the last one."""
    terms: Terms = field(default_factory=Terms)
    """How the requests to the models named here are split and remembered."""


@dataclass(frozen=True, slots=True)
class Deployed:
    """A group's deployment before and after."""

    before: Deployment | None
    after: Deployment
    notified: str | None = None
    """The topic on which the devices were told; None if they were not."""


def parse_arms(text: str) -> tuple[str, ModelDeployment]:
    """Read `NAME=VERSION` or `NAME=V1:50,V2:50`; raises RequestError."""
    name, equals, arms = text.partition("=")
    if not equals or not name or not arms:
        raise RequestError(f"'{text}' does not name a version: write NAME=VERSION or NAME=V1:50,V2:50.")
    try:
        chosen = Choice(models={name: ModelDeployment(arms=tuple(map(_parse_arm, arms.split(","))))})
    except ValueError as error:
        raise RequestError(f"'{text}' is not valid: write NAME=VERSION or NAME=V1:50,V2:50.") from error
    return name, chosen.models[name]


def parse_rule(text: str) -> GroupRule:
    """Read `label=value,label=value:group`; raises RequestError."""
    labels, colon, group = text.rpartition(":")
    pairs = [label.partition("=") for label in labels.split(",")]
    if not colon or not all(name and equals for name, equals, _ in pairs):
        raise RequestError(f"'{text}' is not a rule: write LABEL=VALUE:GROUP, for example site=ulm:south.")
    try:
        return GroupRule(group=group, labels={name: value for name, _, value in pairs})
    except ValueError as error:
        raise RequestError(f"'{group}' cannot be a group: use a-z, 0-9 and inner hyphens.") from error


def revise(
    group: str, before: Deployment | None, change: Change, now: datetime, draw: Draw | None = None
) -> Deployment:
    """Return the group's next deployment; pure. Raises RequestError for a change that makes no sense.

    A new experiment takes its salt from `draw`, by default one made of group and serial.
    """
    serial = _next_serial(before, change.serial)
    change = _settled(before, change, draw or Draw(salt=f"{group}-{serial}"))
    old = {} if before is None or change.replace else dict(before.stable.models)
    if unknown := sorted(change.remove - set(old)):
        raise RequestError(f"Group '{group}' does not run {unknown[0]}: there is nothing to remove.")
    stable = {name: model for name, model in {**old, **change.models}.items() if name not in change.remove}
    candidate = _candidate(group, serial, before, change, stable)
    bake_s = change.bake_s
    if bake_s is None:
        bake_s = Deployment.model_fields["bake_s"].default if before is None else before.bake_s
    elif not 0 <= bake_s <= MAX_BAKE_S:
        raise RequestError(f"{bake_s:g} is no bake time: give seconds from 0 to {MAX_BAKE_S}.")
    try:
        return Deployment(
            group=group,
            serial=serial,
            timestamp=now,
            stable=Choice(models=stable),
            candidate=candidate,
            bake_s=bake_s,
        )
    except ValueError as error:
        raise RequestError(f"'{group}' cannot be a group: use a-z, 0-9 and inner hyphens.") from error


def deploy(repository: Repository, keys: KeyFolder, group: str, change: Change, now: datetime) -> Deployed:
    """Sign the group's next deployment; raises RequestError if it names a version that is not published."""
    with repository.editing(keys, now) as edit:
        before = read_deployment(edit.contents, group)
        draw = Draw(secrets.token_hex(16), past_epochs(repository.files, group))
        after = revise(group, before, change, now, draw)
        _check_published(edit.contents, after)
        edit.put_target(DEPLOYMENTS, after.target_path, after.model_dump_json(by_alias=True).encode())
        return Deployed(before, after)


def assign_groups(
    repository: Repository,
    keys: KeyFolder,
    rules: tuple[GroupRule, ...],
    now: datetime,
    default: str | None = None,
    replace: bool = False,
) -> Groups:
    """Put rules before those that are there (the first match wins), or replace them; return all of them."""
    with repository.editing(keys, now) as edit:
        before = read_groups(edit.contents)
        kept = () if replace else tuple(old for old in before.rules if old not in rules)
        try:
            groups = Groups(rules=(*rules, *kept), default=before.default if default is None else default)
        except ValueError as error:
            raise RequestError(f"'{default}' cannot be a group: use a-z, 0-9 and inner hyphens.") from error
        edit.put_target(DEPLOYMENTS, GROUPS_TARGET, groups.model_dump_json(by_alias=True).encode())
        return groups


def read_deployment(contents: Contents, group: str) -> Deployment | None:
    """Return a group's current deployment, or None."""
    path = deployment_path(group)
    content = contents.read_target(DEPLOYMENTS, path)
    return None if content is None else read_document(Deployment, content, path, __version__)


def read_groups(contents: Contents) -> Groups:
    """Return the rules that map devices to groups."""
    content = contents.read_target(DEPLOYMENTS, GROUPS_TARGET)
    return Groups() if content is None else read_document(Groups, content, GROUPS_TARGET, __version__)


def deployed_groups(contents: Contents) -> list[str]:
    """Return the groups that have a deployment, sorted."""
    paths = [path for path in contents.targets(DEPLOYMENTS) if path != GROUPS_TARGET]
    return sorted(path.removeprefix("deployments/").removesuffix(".json") for path in paths)


def named_manifests(deployment: Deployment) -> set[str]:
    """Return the target paths of all versions that a deployment names."""
    choices = [choice for choice in (deployment.stable, deployment.candidate) if choice is not None]
    return {
        f"models/{name}/{arm.version}.json"
        for choice in choices
        for name, model in choice.models.items()
        for arm in model.arms
    }


def _parse_arm(text: str) -> Arm:
    version, colon, weight = text.partition(":")
    return Arm(version=version, weight=float(weight)) if colon else Arm(version=version)


def _next_serial(before: Deployment | None, wanted: int | None) -> int:
    last = 0 if before is None else before.serial
    if wanted is None:
        return last + 1
    if wanted <= last:
        raise RequestError(f"Serial {wanted} is not after {last}: serials only grow, leave --serial out.")
    return wanted


def _settled(before: Deployment | None, change: Change, draw: Draw) -> Change:
    """Return the change with unit, experiment and cache of each of its models decided."""
    if change.terms.experiment is not None and len({*change.models, *change.candidate}) > 1:
        raise RequestError("An experiment compares versions of one model: name a single model with it.")
    if change.terms != Terms() and not change.models and not change.candidate:
        raise RequestError(
            "Unit, experiment, cache and guardrails belong to a model: name its versions, --model NAME=VERSION."
        )
    stable = {} if before is None else before.stable.models
    candidate = {} if before is None or before.candidate is None else before.candidate.models
    return replace(
        change,
        models=_settle_all(change.models, (stable, candidate), change.terms, draw),
        candidate=_settle_all(change.candidate, (candidate, stable), change.terms, draw),
    )


def _settle_all(wanted: Models, before: tuple[Models, ...], terms: Terms, draw: Draw) -> Models:
    return {
        name: settle(name, model, [models[name] for models in before if name in models], terms, draw)
        for name, model in wanted.items()
    }


def _candidate(
    group: str, serial: int, before: Deployment | None, change: Change, stable: Models
) -> Candidate | None:
    """Return the candidate: the new stable part, with the models that differ put over it."""
    old = None if before is None or change.replace or change.drop_candidate else before.candidate
    differing = {} if before is None or old is None else _differing(old.models, before.stable.models)
    models = _differing({**differing, **change.candidate}, stable)
    if not models:
        if change.percentage is not None or change.window:
            raise RequestError(
                "There is no candidate that differs from the stable part: name one with --candidate."
            )
        return None
    goes_on = all(differing.get(name) == model for name, model in models.items())
    rollout = _rollout(group, serial, old if goes_on else None, change)
    return Candidate(models={**stable, **models}, rollout=rollout)


def _rollout(group: str, serial: int, old: Candidate | None, change: Change) -> Rollout:
    """Keep the salt of a candidate that goes on, so that devices inside stay inside; draw anew for another."""
    before = Rollout(salt=f"{group}-{serial}") if old is None else old.rollout
    if problem := windows_problem(change.window or None):
        raise RequestError(f"The window {problem}.")
    try:
        return Rollout(
            salt=before.salt,
            waves=before.waves,
            percentage=before.percentage if change.percentage is None else change.percentage,
            window=before.window if change.window is None else change.window or None,
        )
    except ValueError as error:
        raise RequestError(f"{change.percentage} is not a percentage: give a number from 0 to 100.") from error


def _differing(candidate: Models, stable: Models) -> dict[str, ModelDeployment]:
    return {name: model for name, model in candidate.items() if stable.get(name) != model}


def _check_published(contents: Contents, deployment: Deployment) -> None:
    for path in sorted(named_manifests(deployment)):
        _, name, file = path.split("/")
        role = model_role(name)
        if contents.target(role, path) is None:
            raise RequestError(_not_published(name, file.removesuffix(".json"), list(contents.targets(role))))


def _not_published(name: str, version: str, published: list[str]) -> str:
    if not published:
        return f"No version of {name} is published: publish one first."
    versions = ", ".join(path.rpartition("/")[2].removesuffix(".json") for path in sorted(published)[-5:])
    return f"{name} {version} is not published; published are {versions}."
