"""From judged candidates to rows and a manifest: gate, order, tolerances. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from converters.checks import evaluate, gate
from converters.checks.gate import Gate
from converters.checks.judge import Judged, Reference
from converters.conversion.floats import Floats
from converters.conversion.identity import Identity
from converters.conversion.preparation import Wanted
from converters.errors import GateError
from converters.report.model import VariantRow
from converters.workers.trials import Loaded
from edge_agent.documents.errors import RequestError
from edge_agent.documents.manifest import (
    File,
    Golden,
    Limits,
    Manifest,
    Requirements,
    Source,
    State,
    Tensor,
    Variant,
)
from edge_agent.documents.tensors import TensorSpec

ALIKE: Final = 1.05
"""Latencies within 5 % are a tie, which the smaller file wins."""

RUN_LIMIT_S: Final = 30.0
_HANG_FACTOR: Final = 50
"""A device may be this much slower than this host before a run counts as a hang."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judged candidate and why it is left out; empty when it is packaged."""

    judged: Judged
    reason: str

    @property
    def sha256(self) -> str:
        """The digest of the candidate's file."""
        return self.judged.candidate.sha256

    @property
    def kind(self) -> tuple[str, str]:
        """Engine and precision; the files for several architectures have them in common."""
        return (self.judged.candidate.engine, self.judged.candidate.precision)


def verdicts(reference: Reference, candidates: Sequence[Judged], limits: Gate) -> list[Verdict]:
    """Apply the gate to each candidate."""
    found = []
    for judged in candidates:
        reason = judged.failure or gate.refusal(limits, measured(reference, judged)) or ""
        found.append(Verdict(judged, reason))
    return found


def check_asked_for(found: Sequence[Verdict], wanted: Wanted, *, precisions: bool, formats: bool) -> None:
    """Raise GateError when something that was asked for, or everything, is left out.

    With `precisions` each precision was asked for by name: it must pass in one format, or in all that have it
    with `formats`, when those were asked for too.
    """
    packaged = {verdict.kind for verdict in found if not verdict.reason}
    if not packaged:
        # The files for two architectures often fail alike.
        reasons = list(dict.fromkeys(f"{' '.join(v.kind)}: {v.reason}" for v in found))
        raise GateError(f"No variant is good enough: {'; '.join(reasons)}; nothing was written.")
    for precision in dict.fromkeys(one for made in wanted.values() for one in made) if precisions else ():
        kinds = [(engine, precision) for engine, made in wanted.items() if precision in made]
        left_out = [kind for kind in kinds if kind not in packaged]
        if left_out and (formats or left_out == kinds):
            # The files for two architectures often fail alike.
            reasons = sorted({verdict.reason for verdict in found if verdict.kind in left_out})
            raise GateError(
                f"The {precision} variant is not good enough: {'; '.join(reasons)}; nothing was written. Relax "
                "the limit, or leave that precision out."
            )
    for engine in wanted if formats else ():
        if not any(kind[0] == engine for kind in packaged):
            reasons = sorted({verdict.reason for verdict in found if verdict.kind[0] == engine})
            said = "; ".join(reasons) or "none of the precisions can be had in it"
            raise GateError(
                f"No {engine} variant is good enough: {said}; nothing was written. Relax the limit, or leave "
                "that target out."
            )


def ordered(found: Sequence[Verdict], order: Sequence[str] | None, *, by_latency: bool = True) -> list[Verdict]:
    """Return the packaged ones best first: by `order`, else by latency with ties by size, else by size.

    What this host cannot time, because it is for another architecture, follows the timed ones of its precision.
    """
    packaged = sorted(
        (verdict for verdict in found if not verdict.reason),
        key=lambda verdict: (verdict.judged.candidate.size_bytes, verdict.judged.candidate.sha256),
    )
    if order is not None:
        rank = {precision: index for index, precision in enumerate(order)}
        return sorted(packaged, key=lambda verdict: rank.get(verdict.judged.candidate.precision, len(rank)))
    return _by_latency(packaged) if by_latency else packaged


def rows(
    reference: Reference,
    found: Sequence[Verdict],
    best_first: Sequence[Verdict],
    files: Mapping[str, File],
    labels: Sequence[str],
) -> tuple[VariantRow, ...]:
    """Return the report's rows: the packaged ones in order, then the others; `files` as for `manifest`."""
    others = [verdict for verdict in found if verdict.reason]
    return tuple(
        _row(reference, verdict, files.get(verdict.sha256), labels) for verdict in (*best_first, *others)
    )


def by_name(shares: Mapping[int, float] | None, labels: Sequence[str]) -> dict[str, float]:
    """Return what is known of each class by its name, or by its number where it has none."""
    return {
        labels[number] if number < len(labels) else str(number): share
        for number, share in (shares or {}).items()
    }


def manifest(
    identity: Identity,
    floats: Floats,
    reference: Reference,
    best_first: Sequence[Verdict],
    golden: File,
    files: Mapping[str, File],
    metadata: Mapping[str, Any],
    *,
    with_latency: bool,
) -> Manifest:
    """Return the manifest of the packaged variants; `files` says how each travels, by its digest."""
    latencies_ms = [v.judged.latency_ms or 0.0 for v in best_first] if with_latency else []
    slowest_ms = max(latencies_ms, default=0.0)
    run_s = min(3600.0, max(RUN_LIMIT_S, float(round(_HANG_FACTOR * slowest_ms / 1000))))
    inputs = _tensors(signature(reference, best_first).inputs)
    outputs = _tensors(signature(reference, best_first).outputs)
    _check_batch(identity, (*inputs, *outputs))
    _check_states(identity, inputs, outputs)
    return Manifest(
        name=identity.name,
        version=identity.version,
        timestamp=identity.timestamp,
        source=Source(framework=floats.framework, sha256=floats.sha256),
        inputs=inputs,
        outputs=outputs,
        labels=identity.labels,
        metadata=dict(metadata),
        limits=Limits(run_s=run_s, max_batch=identity.max_batch),
        state=tuple(State(input=before, output=after) for before, after in identity.state),
        golden=Golden(file=golden, samples=reference.golden),
        variants=tuple(
            _variant(reference, v.judged, files[v.judged.candidate.sha256], with_latency=with_latency)
            for v in best_first
        ),
    )


def _check_batch(identity: Identity, tensors: Sequence[Tensor]) -> None:
    """Refuse a batch limit for a model whose first dimensions are not all free."""
    fixed = [tensor.name for tensor in tensors if not tensor.shape or tensor.shape[0] != -1]
    if identity.max_batch is not None and fixed:
        raise RequestError(
            f"max_batch is for models whose first dimensions are all free, and that of '{fixed[0]}' is not; "
            "export the model with a free batch, or leave max_batch out."
        )


def _check_states(identity: Identity, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
    """Refuse a state that is no input and output of the model."""
    before, after = {tensor.name for tensor in inputs}, {tensor.name for tensor in outputs}
    for pair in identity.state:
        if pair[0] not in before or pair[1] not in after:
            names = ", ".join((*sorted(before), *sorted(after)))
            raise RequestError(f"The model has no state {list(pair)}; its inputs and outputs are {names}.")


def _by_latency(packaged: Sequence[Verdict]) -> list[Verdict]:
    fastest: dict[tuple[str, str], float] = {}
    for verdict in packaged:
        latency = verdict.judged.latency_ms
        if latency is not None:
            fastest[verdict.kind] = min(latency, fastest.get(verdict.kind, latency))
    pending = sorted(packaged, key=lambda v: (fastest.get(v.kind, float("inf")), v.judged.latency_ms is None))
    best: list[Verdict] = []
    while pending:
        limit = ALIKE * fastest.get(pending[0].kind, float("inf"))
        tied = [v for v in pending if fastest.get(v.kind, float("inf")) <= limit]
        best += sorted(tied, key=lambda v: (_kind_bytes(v, tied), v.kind, _latency_ms(v)))
        pending = [v for v in pending if v not in tied]
    return best


def _latency_ms(verdict: Verdict) -> float:
    """Return a verdict's latency; what this host cannot time comes after everything."""
    latency = verdict.judged.latency_ms
    return float("inf") if latency is None else latency


def _kind_bytes(verdict: Verdict, among: Sequence[Verdict]) -> int:
    """Return the size that a verdict's kind is ranked by, so that its architectures stay together."""
    return min(v.judged.candidate.size_bytes for v in among if v.kind == verdict.kind)


def signature(reference: Reference, best_first: Sequence[Verdict]) -> Loaded:
    """Return whose inputs and outputs the manifest names: the float model's, unless they became integers."""
    first = best_first[0].judged
    return first.loaded if first.boundary and first.loaded is not None else reference.loaded


def measured(reference: Reference, judged: Judged) -> gate.Measured:
    """Return what the gate looks at."""
    return gate.Measured(
        judged.candidate.size_bytes,
        judged.agreement or 0.0,
        judged.latency_ms,
        reference.metric.name,
        judged.lost,
    )


def _variant(reference: Reference, judged: Judged, file: File, *, with_latency: bool) -> Variant:
    metrics = {"agreement": _rounded(judged.agreement or 0.0)}
    if judged.score is not None:
        metrics[reference.metric.name] = _rounded(judged.score)
    if judged.latency_ms is not None and with_latency:
        metrics["latency_ms"] = round(judged.latency_ms, 3)
    candidate = judged.candidate
    return Variant(
        engine=candidate.engine,
        precision=candidate.precision,
        file=file,
        requires=Requirements(architectures=candidate.architectures, runtimes=judged.runtimes),
        tolerances=evaluate.tolerances(
            (judged.loaded or reference.loaded).outputs,
            judged.golden_errors,
            judged.scale or reference.scale,
            candidate.precision,
        ),
        metrics=metrics,
    )


def _row(reference: Reference, verdict: Verdict, file: File | None, labels: Sequence[str]) -> VariantRow:
    judged = verdict.judged
    refused = "; ".join(f"not for {name}: {reason}" for name, reason in judged.refused.items())
    return VariantRow(
        precision=judged.candidate.precision,
        engine=judged.candidate.engine,
        architectures=judged.candidate.architectures,
        packaged=not verdict.reason,
        reason=verdict.reason or refused,
        runtimes=judged.runtimes,
        size_bytes=judged.candidate.size_bytes,
        compressed_bytes=None if file is None or file.compression == "none" else file.size_bytes,
        latency_ms=judged.latency_ms,
        memory_bytes=judged.memory_bytes,
        latencies_ms=dict(judged.latencies_ms),
        memories_bytes=dict(judged.memories_bytes),
        agreement=judged.agreement,
        score=judged.score,
        drop=None if judged.agreement is None else measured(reference, judged).drop,
        per_class=by_name(judged.per_class, labels),
        max_error=judged.golden_errors or None,
        excluded=judged.excluded,
        method=judged.candidate.method,
    )


def _tensors(specs: Sequence[TensorSpec]) -> tuple[Tensor, ...]:
    return tuple(Tensor(name=spec.name, datatype=spec.datatype, shape=spec.shape) for spec in specs)


def _rounded(value: float) -> float:
    return round(value, 6)
