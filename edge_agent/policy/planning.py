"""From signed documents to the plan: the group, the part of its deployment, the variant of each version."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from edge_agent.documents.deployment import Arm, Choice, Deployment, Groups, ModelDeployment
from edge_agent.documents.errors import DocumentError, ModelError
from edge_agent.documents.manifest import File, Manifest, Tensor, Variant
from edge_agent.documents.plan import (
    ArmPlan,
    BatchingPlan,
    GuardrailPlan,
    Limit,
    ModelPlan,
    Origin,
    Plan,
    StatePair,
    VersionPlan,
    with_id,
)
from edge_agent.documents.tensors import TensorSpec
from edge_agent.policy.assignment import Lottery
from edge_agent.policy.waves import in_rollout

KNOWN_COMPRESSIONS: Final = frozenset({"none", "zstd"})


@dataclass(frozen=True, slots=True)
class Device:
    """The facts about a device that decide what it runs."""

    id: str
    architecture: str
    """As `platform.machine()` names it."""
    runtimes: Mapping[str, str]
    """Installed runtime of each engine: `{"onnx": "onnxruntime 1.32.0"}`."""
    labels: Mapping[str, str] = field(default_factory=dict)
    execution_providers: tuple[str, ...] = ()
    memory_bytes: int | None = None
    quarantined: Mapping[str, str] = field(default_factory=dict)
    """Digests of model files, as they are run, not to choose, with the reason."""
    compressions: frozenset[str] = KNOWN_COMPRESSIONS
    """Those of `KNOWN_COMPRESSIONS` whose library is installed."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The part of a deployment that a device runs; `device` is its id."""

    origin: Origin
    choice: Choice
    device: str
    window: str = ""
    """When it may be activated; at any time if empty."""

    def arms(self, model: str) -> tuple[Arm, ...]:
        """Return the arms of a model that run on the device: its own alone where the unit is the device."""
        deployed = self.choice.models[model]
        if deployed.unit != "device":
            return deployed.arms
        policy = _model_plan(model, deployed)
        return (deployed.arms[Lottery(policy.salt, policy.arms).arm_of(self.device)],)

    @property
    def wanted(self) -> tuple[tuple[str, str], ...]:
        """Model and version of every arm that runs here; models sorted, arms in the deployment's order."""
        return tuple((model, arm.version) for model in sorted(self.choice.models) for arm in self.arms(model))


def group_of(groups: Groups, device: str, labels: Mapping[str, str]) -> str:
    """Return the group of the first rule whose labels the device all has; the label `id` is the device id."""
    known = {**labels, "id": device}
    for rule in groups.rules:
        if all(known.get(name) == value for name, value in rule.labels.items()):
            return rule.group
    return groups.default


def select(deployment: Deployment, device: str, now: datetime) -> Selection:
    """Return the candidate for a device inside its rollout, else the stable part."""
    candidate = deployment.candidate
    if candidate is not None and in_rollout(candidate.rollout, device, now):
        return Selection("candidate", candidate, device, candidate.rollout.window or "")
    return Selection("stable", deployment.stable, device)


def pick_variant(manifest: Manifest, device: Device) -> Variant:
    """Return the first variant that the device can run; raises ModelError saying why each was passed over."""
    reasons = []
    for variant in manifest.variants:
        reason = _obstacle(variant, device)
        if reason is None:
            return variant
        reasons.append(f"{variant.engine} {variant.precision}: {reason}")
    raise ModelError(
        f"No variant of {manifest.name} {manifest.version} can run on this device ({'; '.join(reasons)})."
    )


def compile_plan(
    deployment: Deployment,
    selection: Selection,
    manifests: Mapping[tuple[str, str], Manifest],
    device: Device,
    locate: Callable[[str], str],
) -> Plan:
    """Return the plan of this device.

    `manifests` holds every `selection.wanted`, by model and version; `locate` gives the absolute path of a blob
    from its digest. Raises ModelError when the device can run no variant of a version.
    """
    versions = []
    for model in sorted(selection.choice.models):
        for arm in selection.arms(model):
            manifest = manifests[model, arm.version]
            _check_golden(manifest, device)
            versions.append(_version_plan(manifest, pick_variant(manifest, device), arm, locate))
    return with_id(
        Plan(
            origin=selection.origin,
            group=deployment.group,
            serial=deployment.serial,
            versions=tuple(versions),
            policies=tuple(
                _model_plan(model, deployed) for model, deployed in sorted(selection.choice.models.items())
            ),
            window=selection.window,
            bake_s=deployment.bake_s,
        )
    )


def files_of(
    plan: Plan, manifests: Mapping[tuple[str, str], Manifest], compressions: frozenset[str] = KNOWN_COMPRESSIONS
) -> dict[str, File]:
    """Return the files that the plan needs on this device, each once, by the digest it is kept under."""
    files: dict[str, File] = {}
    for version in plan.versions:
        manifest = manifests[version.model, version.version]
        offered = [variant.file for variant in manifest.variants]
        if manifest.golden is not None:
            offered.append(manifest.golden.file)
        for file in offered:
            if file.kept_sha256 in version.files and file.compression in compressions:
                files.setdefault(file.kept_sha256, file)
    return files


def _obstacle(variant: Variant, device: Device) -> str | None:
    """Return why the device cannot run the variant, or None."""
    file, requires = variant.file, variant.requires
    runtime = device.runtimes.get(variant.engine)
    missing_providers = [
        name for name in requires.execution_providers if name not in device.execution_providers
    ]
    if file.compression not in device.compressions:
        return _unreadable(file.compression)
    if file.kept_sha256 in device.quarantined:
        return f"quarantined, {device.quarantined[file.kept_sha256] or 'no reason given'}"
    if runtime is None:
        return "no runtime installed"
    if requires.runtimes and runtime.split()[0] not in requires.runtimes:
        return f"checked for {', '.join(requires.runtimes)}, not for {runtime.split()[0]}"
    if requires.architectures and device.architecture not in requires.architectures:
        return f"built for {', '.join(requires.architectures)}, not for {device.architecture}"
    if missing_providers:
        return f"needs the execution provider {missing_providers[0]}"
    if (
        requires.memory_bytes
        and device.memory_bytes is not None
        and requires.memory_bytes > device.memory_bytes
    ):
        return f"needs {requires.memory_bytes / 2**20:.0f} MiB of memory"
    return None


def _unreadable(compression: str) -> str:
    if compression in KNOWN_COMPRESSIONS:
        return f"compressed with {compression}, for which no library is installed"
    return f"unknown compression {compression}"


def _model_plan(model: str, deployed: ModelDeployment) -> ModelPlan:
    experiment, cache, batching = deployed.experiment, deployed.cache, deployed.batching
    guardrails = deployed.guardrails
    return ModelPlan(
        model=model,
        arms=tuple(ArmPlan(arm.name or arm.version, arm.version, arm.weight) for arm in deployed.arms),
        unit=deployed.unit,
        experiment=model if experiment is None else experiment.name,
        epoch=0 if experiment is None else experiment.epoch,
        salt=model if experiment is None else experiment.salt,
        cache=cache.enabled,
        cache_ttl_s=cache.ttl_s,
        cache_max_input_bytes=cache.max_input_bytes,
        cache_share=cache.share,
        batching=BatchingPlan(batching.max_size, batching.max_delay_us, batching.preferred),
        guardrails=GuardrailPlan(guardrails.max_error_rate, guardrails.max_p99_ratio, guardrails.min_requests),
    )


def _version_plan(manifest: Manifest, variant: Variant, arm: Arm, locate: Callable[[str], str]) -> VersionPlan:
    golden = manifest.golden
    return VersionPlan(
        model=manifest.name,
        version=manifest.version,
        engine=variant.engine,
        precision=variant.precision,
        sha256=variant.file.kept_sha256,
        path=locate(variant.file.kept_sha256),
        size_bytes=variant.file.kept_size_bytes,
        inputs=_specs(manifest.inputs),
        outputs=_specs(manifest.outputs),
        labels=manifest.labels,
        run_limit_s=manifest.limits.run_s,
        golden_path=None if golden is None else locate(golden.file.kept_sha256),
        golden_samples=0 if golden is None else golden.samples,
        tolerances={name: Limit(limit.atol, limit.rtol) for name, limit in variant.tolerances.items()},
        weight=arm.weight,
        arm=arm.name or arm.version,
        state=tuple(StatePair(state.input, state.output) for state in manifest.state),
        max_batch=manifest.limits.max_batch or 0,
        memory_bytes=variant.requires.memory_bytes or 0,
    )


def _check_golden(manifest: Manifest, device: Device) -> None:
    golden = manifest.golden
    if golden is not None and golden.file.compression not in device.compressions:
        raise DocumentError(
            f"The golden samples of {manifest.name} {manifest.version} cannot be read "
            f"({_unreadable(golden.file.compression)})."
        )


def _specs(tensors: tuple[Tensor, ...]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(tensor.name, tensor.datatype, tensor.shape) for tensor in tensors)
