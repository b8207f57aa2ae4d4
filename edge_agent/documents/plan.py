"""The plan: what this device shall run, already validated, compiled from signed documents.

Plain frozen dataclasses, because the resident processes read nothing else and do without pydantic.
"""

import dataclasses
import hashlib
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from edge_agent.documents.tensors import TensorSpec

Origin = Literal["stable", "candidate", "file"]


@dataclass(frozen=True, slots=True)
class Limit:
    """How far an output may be from its golden value: |got - want| <= atol + rtol * |want|."""

    atol: float = 0.0
    rtol: float = 0.0


@dataclass(frozen=True, slots=True)
class StatePair:
    """A streaming model's state: what a run gives as `output` is the next run's `input`, zeros at the start."""

    input: str
    output: str


@dataclass(frozen=True, slots=True)
class VersionPlan:
    """One version of one model, with the variant that this device runs."""

    model: str
    version: str
    engine: str
    precision: str
    sha256: str
    """Digest of the model file: what the cache, verdicts and quarantine are keyed by."""
    path: str
    """Absolute path of the model file on this device."""
    size_bytes: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    labels: tuple[str, ...] = ()
    run_limit_s: float = 30.0
    golden_path: str | None = None
    golden_samples: int = 0
    tolerances: dict[str, Limit] = field(default_factory=dict)
    weight: float = 1.0
    """Share of the model's traffic, relative to its other versions."""
    arm: str = ""
    """Name of the arm that this version is; its own where it has none."""
    state: tuple[StatePair, ...] = ()
    max_batch: int = 0
    """Largest first dimension of one run, which is then known to be a batch; 0 where that is not known."""
    memory_bytes: int = 0
    """What the variant is said to need; 0 where nothing is said."""

    @property
    def key(self) -> str:
        """A name for this version and variant, stable across plans: `model/version/sha256[:12]`."""
        return f"{self.model}/{self.version}/{self.sha256[:12]}"

    @property
    def files(self) -> tuple[str, ...]:
        """The digests of its files: of the model, and of the golden samples if there are any."""
        golden = () if self.golden_path is None else (self.golden_path.rpartition("/")[2],)
        return (self.sha256, *golden)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A version that is deployed to this device and not served; `reason` is a sentence."""

    model: str
    version: str
    reason: str


@dataclass(frozen=True, slots=True)
class ArmPlan:
    """An arm of a model, whether or not its version is served here."""

    name: str
    version: str
    weight: float


@dataclass(frozen=True, slots=True)
class BatchingPlan:
    """How waiting requests are run together; `max_size` counts rows of the first dimension, 1 is never."""

    max_size: int = 1
    max_delay_us: int = 0
    """How long a request may wait for others where it could run at once."""
    preferred: tuple[int, ...] = ()
    """Sizes that are run without waiting for more."""


@dataclass(frozen=True, slots=True)
class GuardrailPlan:
    """What a new version of a model may do in its bake time; see `policy.guardrails`."""

    max_error_rate: float | None = 0.05
    """The share of requests, of those that the version is to blame for; None for any."""
    max_p99_ratio: float | None = 3.0
    """How many times the old p99 of run times the new one may be; None for any."""
    min_requests: int = 20
    """With fewer, and five times as many for the p99, there is no verdict."""


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """How the requests to one model are assigned and remembered.

    `arms` holds all arms of the deployment: with `unit` `device` only the device's own is among the versions,
    and a version that is left out is replaced by another, whose answers are marked `fallback`.
    """

    model: str
    arms: tuple[ArmPlan, ...] = ()
    unit: Literal["request", "key", "device"] = "request"
    experiment: str = ""
    """The experiment's name, the model's where there is none."""
    epoch: int = 0
    salt: str = ""
    cache: bool = True
    cache_ttl_s: float | None = None
    cache_max_input_bytes: int | None = None
    cache_share: float | None = None
    """The share of the cache's bytes that the model's results may take; all of them unless set."""
    batching: BatchingPlan = BatchingPlan()
    guardrails: GuardrailPlan = GuardrailPlan()


@dataclass(frozen=True, slots=True)
class Plan:
    """What this device shall run; applied whole or not at all.

    `id` is a digest of the content, so that equal plans are the same plan.
    """

    id: str = ""
    origin: Origin = "stable"
    group: str = ""
    serial: int = 0
    versions: tuple[VersionPlan, ...] = ()
    policies: tuple[ModelPlan, ...] = ()
    """One for each model; a model without one is served by weight, remembered by the device's settings."""
    window: str = ""
    """When the plan may be activated, as `documents.windows` reads it; at any time if empty."""
    bake_s: float = 0.0
    """How long versions that are new here are on trial, once they serve; 0 is no time at all."""

    def policy(self, model: str) -> ModelPlan:
        """Return how a model's requests are assigned and remembered."""
        return next((policy for policy in self.policies if policy.model == model), ModelPlan(model))

    def of_model(self, model: str) -> tuple[VersionPlan, ...]:
        """Return the versions of one model, in the deployment's order."""
        return tuple(version for version in self.versions if version.model == model)

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the models, sorted."""
        return tuple(sorted({version.model for version in self.versions}))


def with_id(plan: Plan) -> Plan:
    """Return the plan with its id computed from everything else in it."""
    content = msgspec.to_builtins(plan)
    content["id"] = ""
    digest = hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()
    return dataclasses.replace(plan, id=digest[:16])
