"""Reports on experiments: which are meant, what the store says about their arms, and the comparison."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from edge_agent.documents.deployment import ModelDeployment
from edge_agent.documents.errors import NotFoundError, RequestError
from edge_fleet.analyse import Comparison, Totals, compare, gather
from edge_fleet.deploy import deployed_groups, read_deployment
from edge_fleet.experiments import Unit
from edge_fleet.fleet_db import FleetDb
from edge_fleet.repository import Contents
from edge_fleet.sample_ratio import RatioCheck, check_ratio

_LISTED: Final = 20


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked about experiments; None leaves it open."""

    experiment: str | None = None
    model: str | None = None
    metric: str | None = None
    epoch: int | None = None
    """None takes the last one of each experiment."""
    group: str | None = None
    control: str | None = None
    by: str = "auto"
    weights: Mapping[str, float] | None = None
    unit: Unit | None = None


@dataclass(frozen=True, slots=True)
class Design:
    """How an experiment was meant to be: the arms' weights, the control first, and the unit of assignment."""

    weights: Mapping[str, float]
    unit: Unit


@dataclass(frozen=True, slots=True)
class Report:
    """One epoch of one experiment."""

    experiment: str
    model: str
    epoch: int
    devices: int
    exposures: dict[str, int]
    """Predictions by arm."""
    comparisons: tuple[Comparison, ...]
    """One for each metric."""
    ratio: RatioCheck | None
    """None if nobody said what the weights are."""


@dataclass(frozen=True, slots=True)
class Reports:
    """The reports that were asked for."""

    reports: tuple[Report, ...]


def report(db: FleetDb, question: Question, contents: Contents | None = None) -> Reports:
    """Answer a question from the database, with the store's deployments if there is a store.

    Raises NotFoundError if there are no sums of what is asked for, RequestError for an arm that is not there.
    """
    found = _chosen(db.epochs(), question)
    reports = []
    for experiment, model, epoch in found:
        rows = ((row.device, row.message) for row in db.sums(experiment, model, epoch, question.group))
        design = None if contents is None else _design(contents, experiment, model, epoch, question.group)
        reports.append(_report(experiment, model, epoch, gather(rows), question, design))
    return Reports(tuple(reports))


def parse_weights(text: str) -> dict[str, float]:
    """Read `ARM=WEIGHT,ARM=WEIGHT`; raises RequestError."""
    try:
        weights = {arm: float(weight) for arm, _, weight in (part.rpartition("=") for part in text.split(","))}
    except ValueError:
        weights = {}
    if not weights or not all(arm and 0 < weight < float("inf") for arm, weight in weights.items()):
        raise RequestError(f"'{text}' are no weights: write ARM=WEIGHT,ARM=WEIGHT, for example 1=50,2=50.")
    return weights


def _chosen(epochs: list[tuple[str, str, int]], question: Question) -> list[tuple[str, str, int]]:
    """Return the experiments that are meant, with the last epoch of each unless one is named."""
    named = [
        (experiment, model, epoch)
        for experiment, model, epoch in epochs
        if question.experiment in (None, experiment) and question.model in (None, model)
    ]
    if question.epoch is not None:
        chosen = [key for key in named if key[2] == question.epoch]
    else:
        last = {(experiment, model): epoch for experiment, model, epoch in named if epoch > 0}
        chosen = [(*key, epoch) for key, epoch in last.items()]
    if not chosen:
        raise NotFoundError(_nothing(epochs, question))
    return chosen


def _nothing(epochs: list[tuple[str, str, int]], question: Question) -> str:
    known = [f"{name} ({model}, epoch {epoch})" for name, model, epoch in epochs if epoch > 0]
    what = "of any experiment" if question.experiment is None else f"of experiment '{question.experiment}'"
    if question.epoch is not None:
        what += f", epoch {question.epoch}"
    if not known:
        return f"The database has no outcomes {what}: devices send them once they have predictions to tell of."
    return f"The database has no outcomes {what}; it has {', '.join(known[:_LISTED])}."


def _report(
    experiment: str, model: str, epoch: int, totals: Totals, question: Question, design: Design | None
) -> Report:
    if question.weights is not None:
        design = Design(question.weights, question.unit or (design.unit if design else "request"))
    order = list(design.weights) if design is not None else totals.arms
    if question.control is not None:
        if question.control not in {*order, *totals.arms}:
            arms = ", ".join(totals.arms) or "none"
            raise RequestError(f"Experiment '{experiment}' has no arm '{question.control}'; it has {arms}.")
        order = [question.control, *(arm for arm in order if arm != question.control)]
    metrics = sorted(totals.outcomes)
    if question.metric is not None:
        if question.metric not in totals.outcomes:
            listed = ", ".join(metrics[:_LISTED]) or "none"
            raise NotFoundError(
                f"Experiment '{experiment}', epoch {epoch}, has no metric '{question.metric}'; it has {listed}."
            )
        metrics = [question.metric]
    return Report(
        experiment=experiment,
        model=model,
        epoch=epoch,
        devices=len(totals.exposures),
        exposures={arm: totals.exposed(arm) for arm in dict.fromkeys([*order, *totals.arms])},
        comparisons=tuple(compare(totals, metric, order, question.by) for metric in metrics),
        ratio=None if design is None else check_ratio(totals, design.weights, question.unit or design.unit),
    )


def _design(contents: Contents, experiment: str, model: str, epoch: int, group: str | None) -> Design | None:
    """Return what the deployments say of the experiment; None if none has this epoch, or not all the same."""
    designs = [
        _read_design(deployed)
        for name in deployed_groups(contents)
        if group in (None, name)
        for deployed in _deployed(contents, name, model)
        if deployed.experiment is not None
        and (deployed.experiment.name, deployed.experiment.epoch) == (experiment, epoch)
    ]
    return designs[0] if designs and all(design == designs[0] for design in designs) else None


def _deployed(contents: Contents, group: str, model: str) -> list[ModelDeployment]:
    deployment = read_deployment(contents, group)
    if deployment is None:
        return []
    choices = [deployment.stable] + ([deployment.candidate] if deployment.candidate is not None else [])
    return [choice.models[model] for choice in choices if model in choice.models]


def _read_design(deployed: ModelDeployment) -> Design:
    return Design({arm.name or arm.version: arm.weight for arm in deployed.arms}, deployed.unit)
