"""The deployment: the signed choice of what a group of devices runs; and the groups that devices fall into.

TUF targets `deployments/<group>.json` and `deployments/groups.json`.
"""

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints, model_validator

from edge_agent.documents.manifest import Document, ModelName, Version
from edge_agent.documents.windows import parse_hours

DEPLOYMENT_SCHEMA = 1
GROUPS_TARGET = "deployments/groups.json"
MAX_BAKE_S = 30 * 86_400

GroupName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]


ExperimentName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
ArmName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}$")]


def _hours(text: str) -> str:
    parse_hours(text)
    return text


WindowText = Annotated[str, StringConstraints(max_length=256), AfterValidator(_hours)]
"""Maintenance windows, as `documents.windows` reads them."""


class _Versioned(Document):
    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True, serialize_by_alias=True)

    schema_: Literal[1] = Field(default=1, alias="schema")
    min_agent: str = "0.1"


class Arm(Document):
    """One version that takes part of a model's traffic, in proportion to its weight."""

    version: Version
    name: ArmName | None = None
    """What reports call the arm; the version if it has no name. `fallback` and `direct` are reserved."""
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0


class Experiment(Document):
    """A comparison of arms. A new epoch begins when arms change, so that old outcomes are not mixed with new.

    Epoch 0 is the time without an experiment: its sums serve as covariates (CUPED).
    """

    name: ExperimentName
    salt: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    epoch: Annotated[int, Field(ge=1, le=2**31)]


class CachePolicy(Document):
    """How a model's results may be remembered; null leaves it to the device's settings."""

    enabled: bool = True
    ttl_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    max_input_bytes: Annotated[int, Field(ge=0)] | None = None
    """Requests with more input bytes bypass the cache."""
    share: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    """The share of the cache's memory that the model's results may take."""


class Batching(Document):
    """How waiting requests to one version are run together; off unless `max_size` is above 1.

    Only models whose manifest has `limits.max_batch` are batched, and never beyond that.
    """

    max_size: Annotated[int, Field(ge=1, le=65_536)] = 1
    """Rows of the first dimension in one run."""
    max_delay_us: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """How long a request may wait for others where it could run at once."""
    preferred: tuple[Annotated[int, Field(ge=1, le=65_536)], ...] = Field(default=(), max_length=16)
    """Sizes that are run without waiting for more."""


class Guardrails(Document):
    """What makes a device go back to the version before, in the bake time of a new one; null is no limit.

    A crash or hang of the serving process that the new version is charged with always does.
    """

    max_error_rate: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = 0.05
    """Share of requests, 0 to 1, that may fail by the version's own fault."""
    max_p99_ratio: Annotated[float, Field(ge=1, allow_inf_nan=False)] | None = 3.0
    """How many times the old version's 99th percentile of run times the new one's may be."""
    min_requests: Annotated[int, Field(ge=1)] = 20
    """With fewer requests to the new version, and five times as many for the p99, there is no verdict."""


class ModelDeployment(Document):
    """What a device runs of one model.

    `unit` is what is assigned to an arm as a whole: each request by itself, the caller's key (the request
    parameter `unit` or the header `Edge-Unit`; a request without one is assigned by itself), or the device.
    """

    arms: tuple[Arm, ...] = Field(min_length=1, max_length=16)
    unit: Literal["request", "key", "device"] = "request"
    experiment: Experiment | None = None
    cache: CachePolicy = CachePolicy()
    batching: Batching = Batching()
    guardrails: Guardrails = Guardrails()

    @model_validator(mode="after")
    def _versions_differ(self) -> Self:
        if len({arm.version for arm in self.arms}) != len(self.arms):
            raise ValueError("two arms have the same version")
        names = [arm.name or arm.version for arm in self.arms]
        if len(set(names)) != len(names):
            raise ValueError("two arms have the same name")
        if reserved := {"fallback", "direct"} & set(names):
            raise ValueError(f"an arm has the reserved name '{min(reserved)}'")
        return self


class Wave(Document):
    """From `not_before` on, the share of devices (0 to 100 percent) that runs the candidate."""

    percentage: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
    not_before: datetime


class Rollout(Document):
    """Which devices run the candidate: those whose hash of salt and id falls inside the percentage.

    The share is the larger of `percentage` and of the waves whose time has come.
    """

    salt: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    percentage: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] = 0.0
    waves: tuple[Wave, ...] = Field(default=(), max_length=64)
    window: WindowText | None = None
    """When a device may activate the candidate, for example `sat,sun 02:00-05:00`; at any time unless set.
    By the device's own time zone, unless `UTC` stands at the end."""


class Choice(Document):
    """The models that a device runs, by name."""

    models: dict[ModelName, ModelDeployment]


class Candidate(Choice):
    """What the devices inside the rollout run instead of the stable part."""

    rollout: Rollout


class Deployment(_Versioned):
    """What a group runs; `serial` only grows, so that an older document is never taken for a newer one."""

    group: GroupName
    serial: Annotated[int, Field(ge=1)]
    timestamp: datetime
    stable: Choice
    candidate: Candidate | None = None
    bake_s: Annotated[float, Field(ge=0, le=MAX_BAKE_S, allow_inf_nan=False)] = 600.0
    """How long versions that are new to a device are on trial there, once they serve: see `Guardrails`."""

    @property
    def target_path(self) -> str:
        """The TUF target path of this deployment."""
        return deployment_path(self.group)


class GroupRule(Document):
    """Devices whose labels have all of these values belong to the group; the label `id` is the device id."""

    group: GroupName
    labels: dict[str, str] = {}


class Groups(_Versioned):
    """Rules that map a device's labels to its group; the first match wins, `default` is the fallback."""

    rules: tuple[GroupRule, ...] = Field(default=(), max_length=100_000)
    default: GroupName = "default"


def deployment_path(group: str) -> str:
    """Return the TUF target path of a group's deployment."""
    return f"deployments/{group}.json"
