"""From judged candidates to rows and a manifest: gate, order, tolerances. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from converters.checks import evaluate, gate
from converters.checks.gate import Gate
from converters.checks.judge import Judged, Reference
from converters.errors import GateError
from converters.report import VariantRow
from edge_agent.documents.manifest import (
    File,
    Golden,
    Limits,
    Manifest,
    Precision,
    Requirements,
    Source,
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
class Identity:
    """What a version is called, when it was made and what is known of its classes."""

    name: str
    version: str
    timestamp: datetime
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judged candidate and why it is left out; empty when it is packaged."""

    judged: Judged
    reason: str


def verdicts(reference: Reference, candidates: Sequence[Judged], limits: Gate) -> list[Verdict]:
    """Apply the gate to each candidate."""
    found = []
    for judged in candidates:
        reason = judged.failure or gate.refusal(limits, _measured(reference, judged)) or ""
        found.append(Verdict(judged, reason))
    return found


def check_asked_for(found: Sequence[Verdict], asked: Sequence[Precision]) -> None:
    """Raise GateError when a precision that was asked for, or every one, is left out."""
    packaged = {verdict.judged.candidate.precision for verdict in found if not verdict.reason}
    for precision in asked:
        if precision not in packaged:
            # The files for two architectures often fail alike.
            reasons = sorted({v.reason for v in found if v.judged.candidate.precision == precision})
            raise GateError(
                f"The {precision} variant is not good enough: {'; '.join(reasons)}; nothing was written. Relax "
                "the limit, or leave that precision out."
            )
    if not packaged:
        reasons = [f"{v.judged.candidate.precision}: {v.reason}" for v in found]
        raise GateError(f"No variant is good enough: {'; '.join(reasons)}; nothing was written.")


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
    reference: Reference, found: Sequence[Verdict], best_first: Sequence[Verdict]
) -> tuple[VariantRow, ...]:
    """Return the report's rows: the packaged ones in order, then the others."""
    others = [verdict for verdict in found if verdict.reason]
    return tuple(_row(reference, verdict) for verdict in (*best_first, *others))


def manifest(
    identity: Identity,
    reference: Reference,
    best_first: Sequence[Verdict],
    golden: File,
    metadata: Mapping[str, Any],
    *,
    with_latency: bool,
) -> Manifest:
    """Return the manifest of the packaged variants."""
    slowest_ms = max((v.judged.latency_ms or 0.0 for v in best_first), default=0.0)
    run_s = min(3600.0, max(RUN_LIMIT_S, float(round(_HANG_FACTOR * slowest_ms / 1000))))
    return Manifest(
        name=identity.name,
        version=identity.version,
        timestamp=identity.timestamp,
        source=Source(framework=reference.source.engine, sha256=reference.source.sha256),
        inputs=_tensors(reference.loaded.inputs),
        outputs=_tensors(reference.loaded.outputs),
        labels=identity.labels,
        metadata=dict(metadata),
        limits=Limits(run_s=run_s),
        golden=Golden(file=golden, samples=reference.golden),
        variants=tuple(_variant(reference, v.judged, with_latency=with_latency) for v in best_first),
    )


def _by_latency(packaged: Sequence[Verdict]) -> list[Verdict]:
    fastest: dict[str, float] = {}
    for verdict in packaged:
        precision, latency = verdict.judged.candidate.precision, verdict.judged.latency_ms
        if latency is not None:
            fastest[precision] = min(latency, fastest.get(precision, latency))
    pending = sorted(
        packaged,
        key=lambda v: (fastest.get(v.judged.candidate.precision, float("inf")), v.judged.latency_ms is None),
    )
    best: list[Verdict] = []
    while pending:
        limit = ALIKE * fastest.get(pending[0].judged.candidate.precision, float("inf"))
        tied = [v for v in pending if fastest.get(v.judged.candidate.precision, float("inf")) <= limit]
        best += sorted(tied, key=lambda v: (_precision_bytes(v, tied), v.judged.latency_ms is None))
        pending = [v for v in pending if v not in tied]
    return best


def _precision_bytes(verdict: Verdict, among: Sequence[Verdict]) -> int:
    """Return the size that a verdict's precision is ranked by, so that its architectures stay together."""
    candidate = verdict.judged.candidate
    return min(
        v.judged.candidate.size_bytes for v in among if v.judged.candidate.precision == candidate.precision
    )


def _measured(reference: Reference, judged: Judged) -> gate.Measured:
    return gate.Measured(
        judged.candidate.size_bytes,
        judged.agreement or 0.0,
        judged.latency_ms,
        judged.accuracy,
        reference.accuracy,
    )


def _variant(reference: Reference, judged: Judged, *, with_latency: bool) -> Variant:
    metrics = {"agreement": _rounded(judged.agreement or 0.0)}
    if judged.accuracy is not None:
        metrics["accuracy"] = _rounded(judged.accuracy)
    if judged.latency_ms is not None and with_latency:
        metrics["latency_ms"] = round(judged.latency_ms, 3)
    candidate = judged.candidate
    return Variant(
        engine=candidate.engine,
        precision=candidate.precision,
        file=File(sha256=candidate.sha256, size_bytes=candidate.size_bytes),
        requires=Requirements(architectures=candidate.architectures, runtimes=judged.runtimes),
        tolerances=evaluate.tolerances(
            reference.loaded.outputs, judged.golden_errors, reference.scale, candidate.precision
        ),
        metrics=metrics,
    )


def _row(reference: Reference, verdict: Verdict) -> VariantRow:
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
        latency_ms=judged.latency_ms,
        agreement=judged.agreement,
        memory_bytes=judged.memory_bytes,
        latencies_ms=dict(judged.latencies_ms),
        memories_bytes=dict(judged.memories_bytes),
        score=judged.accuracy,
        drop=None if judged.agreement is None else _measured(reference, judged).drop,
        max_error=judged.golden_errors or None,
        method=judged.candidate.method,
    )


def _tensors(specs: Sequence[TensorSpec]) -> tuple[Tensor, ...]:
    return tuple(Tensor(name=spec.name, datatype=spec.datatype, shape=spec.shape) for spec in specs)


def _rounded(value: float) -> float:
    return round(value, 6)
