"""Has models' roles sign their newest versions alone, so that what devices fetch stays small."""

from dataclasses import dataclass
from datetime import datetime

from edge_agent import __version__
from edge_agent.documents.errors import NotFoundError, RequestError
from edge_agent.documents.manifest import Manifest
from edge_agent.documents.reading import read_document
from edge_fleet.deploy import deployed_groups, named_manifests, read_deployment
from edge_fleet.keys import KeyFolder
from edge_fleet.publish import model_role
from edge_fleet.repository import Contents, Repository

DEFAULT_KEEP = 50


@dataclass(frozen=True, slots=True)
class RetiredModel:
    """What became of one model's versions."""

    model: str
    kept: int
    retired: tuple[str, ...]
    """Versions, the oldest first."""
    deployed: tuple[str, ...]
    """Old versions that stay since a deployment names them."""


@dataclass(frozen=True, slots=True)
class Retired:
    """What became of each model."""

    models: tuple[RetiredModel, ...]
    dry_run: bool


def retire(
    repository: Repository,
    keys: KeyFolder,
    models: tuple[str, ...],
    keep: int,
    now: datetime,
    dry_run: bool = False,
) -> Retired:
    """Retire all but the newest `keep` versions of the models, of all models if none is named, in one go.

    Raises RequestError if `keep` is below 1, NotFoundError for a model that was never published.
    """
    if keep < 1:
        raise RequestError(f"--keep is {keep}: keep one version at least.")
    if dry_run:
        contents = repository.read()
        return Retired(tuple(_plan(contents, model, keep) for model in _chosen(contents, models)), dry_run=True)
    with repository.editing(keys, now) as edit:
        plans = [_plan(edit.contents, model, keep) for model in _chosen(edit.contents, models)]
        for plan in plans:
            for version in plan.retired:
                edit.drop_target(model_role(plan.model), f"models/{plan.model}/{version}.json")
    return Retired(tuple(plans), dry_run=False)


def _chosen(contents: Contents, models: tuple[str, ...]) -> list[str]:
    published = [role.removeprefix("m-") for role in contents.delegated if role.startswith("m-")]
    if unknown := sorted(set(models) - set(published)):
        raise NotFoundError(f"No version of {unknown[0]} is published; the store has {', '.join(published)}.")
    return list(dict.fromkeys(models)) or published


def _plan(contents: Contents, model: str, keep: int) -> RetiredModel:
    role = model_role(model)
    paths = list(contents.targets(role))
    if len(paths) <= keep:
        return RetiredModel(model, len(paths), (), ())
    manifests = [
        read_document(Manifest, contents.read_target(role, path) or b"", path, __version__) for path in paths
    ]
    # By when they were built: versions may be any words.
    manifests.sort(key=lambda manifest: (manifest.timestamp, manifest.version))
    old = manifests[:-keep]
    named = _named(contents)
    retired = tuple(manifest.version for manifest in old if manifest.target_path not in named)
    deployed = tuple(manifest.version for manifest in old if manifest.target_path in named)
    return RetiredModel(model, len(paths) - len(retired), retired, deployed)


def _named(contents: Contents) -> set[str]:
    deployments = [read_deployment(contents, group) for group in deployed_groups(contents)]
    return {path for deployment in deployments if deployment for path in named_manifests(deployment)}
