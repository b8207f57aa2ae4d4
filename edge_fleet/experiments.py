"""Decides how a deployed model's requests are split, remembered, batched and guarded: unit, experiment, epoch,
cache, guardrails. Pure, but for `past_epochs`, which reads a store.

An experiment's epoch changes with its arms or its unit, so that outcomes of one comparison are never added to
those of another; weights alone do not change it. An epoch is never used twice for one name, not even when the
experiment has ended in between: devices and collectors keep the sums of the old one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import ValidationError

from edge_agent.documents.deployment import (
    Batching,
    CachePolicy,
    Deployment,
    Experiment,
    Guardrails,
    ModelDeployment,
)
from edge_agent.documents.errors import RequestError, StorageError
from edge_fleet.stores.base import StoreFiles

Unit = Literal["request", "key", "device"]


@dataclass(frozen=True, slots=True)
class Terms:
    """What is asked for the models of one change; None keeps what was set before."""

    unit: Unit | None = None
    experiment: str | None = None
    """Name of the experiment; the default is the former one's, else the model's."""
    cache: bool | None = None
    cache_ttl_s: float | None = None
    batching: Batching | None = None
    guardrails: Mapping[str, float | None] = field(default_factory=dict)
    """Fields of `Guardrails` to set."""


@dataclass(frozen=True, slots=True)
class Draw:
    """What a new experiment takes from outside: its salt, and the epochs that are used up by name."""

    salt: str
    last_epochs: Mapping[str, int] = field(default_factory=dict)


def settle(
    name: str, wanted: ModelDeployment, known: Sequence[ModelDeployment], terms: Terms, draw: Draw
) -> ModelDeployment:
    """Return the model as it shall be deployed: what the terms leave open is as before.

    `known` is what the group ran of this model, what it is derived from first. What was set explicitly in
    `wanted` stays. Raises RequestError for terms that make no sense.
    """
    explicit = wanted.model_fields_set
    base = known[0] if known else wanted
    settled = wanted.model_copy(
        update={
            "unit": terms.unit or (wanted if "unit" in explicit else base).unit,
            "cache": _cache((wanted if "cache" in explicit else base).cache, terms),
            "batching": terms.batching or (wanted if "batching" in explicit else base).batching,
            "guardrails": _guardrails((wanted if "guardrails" in explicit else base).guardrails, terms),
        }
    )
    if "experiment" in explicit:
        return settled
    return settled.model_copy(update={"experiment": _experiment(name, settled, known, terms.experiment, draw)})


def past_epochs(files: StoreFiles, group: str) -> dict[str, int]:
    """Return the last epoch of each experiment that any deployment of the group had, also long ago.

    The old documents are no longer signed; they are read for nothing but these numbers, which can only make a
    new epoch larger. What cannot be read is passed over.
    """
    last: dict[str, int] = {}
    for file in files.list("targets/deployments/"):
        if not file.name.endswith(f".{group}.json"):
            continue
        try:
            deployment = Deployment.model_validate_json(files.read(file.name))
        except (StorageError, ValidationError):
            continue
        for choice in filter(None, (deployment.stable, deployment.candidate)):
            for experiment in (model.experiment for model in choice.models.values()):
                if experiment is not None:
                    last[experiment.name] = max(experiment.epoch, last.get(experiment.name, 0))
    return last


def _cache(before: CachePolicy, terms: Terms) -> CachePolicy:
    enabled = before.enabled if terms.cache is None else terms.cache
    ttl_s = before.ttl_s if terms.cache_ttl_s is None else terms.cache_ttl_s
    try:
        return CachePolicy.model_validate({**before.model_dump(), "enabled": enabled, "ttl_s": ttl_s})
    except ValidationError as error:
        raise RequestError(f"--cache-ttl is {ttl_s}: give a number of seconds above 0.") from error


def _guardrails(before: Guardrails, terms: Terms) -> Guardrails:
    try:
        return Guardrails.model_validate({**before.model_dump(), **terms.guardrails})
    except ValidationError as error:
        raise RequestError(
            "These are no guardrails: --max-error-rate is a share from 0 to 1, --max-p99-ratio a factor from 1 "
            "on, or each off; --min-requests is a number from 1 on."
        ) from error


def _experiment(
    model: str, wanted: ModelDeployment, known: Sequence[ModelDeployment], title: str | None, draw: Draw
) -> Experiment | None:
    """Return the experiment that goes on, the next epoch of it, or a new one; None for a single arm."""
    if len(wanted.arms) < 2:
        if title is not None:
            raise RequestError(
                f"Experiment '{title}' has one arm: name the versions to compare, {model}=V1:50,V2:50."
            )
        return None
    former = [old.experiment for old in known if old.experiment is not None]
    name = title or (former[0].name if former else model)
    same = [experiment for experiment in former if experiment.name == name]
    for old in known:
        if old.experiment in same and _arms(old) == _arms(wanted) and old.unit == wanted.unit:
            return old.experiment
    last = max((experiment.epoch for experiment in same), default=0)
    epoch = max(last, draw.last_epochs.get(name, 0)) + 1
    try:
        return Experiment(name=name, salt=same[0].salt if same else draw.salt, epoch=epoch)
    except ValidationError as error:
        raise RequestError(
            f"'{name}' cannot name an experiment: use a-z, 0-9 and inner hyphens, 63 at most."
        ) from error


def _arms(model: ModelDeployment) -> set[tuple[str, str]]:
    return {(arm.name or arm.version, arm.version) for arm in model.arms}


def parse_batching(text: str) -> Batching:
    """Read `SIZE` or `SIZE:DELAY_US`, or `off`; raises RequestError."""
    size, _, delay_us = text.partition(":")
    try:
        return Batching() if text == "off" else Batching(max_size=int(size), max_delay_us=int(delay_us or 0))
    except ValueError as error:
        raise RequestError(f"'{text}' is no batching: write SIZE or SIZE:DELAY_US, or off.") from error


def parse_limit(text: str) -> float | None:
    """Read a number, or `off` for no limit; raises ValueError."""
    return None if text == "off" else float(text)


parse_limit.__name__ = "number, or off"  # what argparse calls the type in its message
