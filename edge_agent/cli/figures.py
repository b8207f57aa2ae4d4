"""What `edge-agent top` shows, computed from two looks at an agent. Pure.

Rates and quantiles are those of the time between the looks, so they need two; a serving process that was
started in between counts from its start.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from edge_agent.cli.exposition import Sample, Samples, quantile
from edge_agent.cli.status import Status
from edge_agent.documents.messages import VersionReport

Key = tuple[str, str]
"""Model and version."""

_PREFIX: Final = "edge_agent_"
_SHORTEST_S: Final = 0.05
"""A rate over less than this says nothing."""


@dataclass(frozen=True, slots=True)
class Look:
    """One look at an agent: what serving counts and what the supervisor says, None where it gives no answer."""

    time_s: float
    """Unix time."""
    samples: Samples | None
    status: Status | None
    serving_problem: str = ""
    """Why there are no samples, in one sentence."""
    admin_problem: str = ""
    supervisor_bytes: int | None = None
    """Resident memory of the supervisor."""


@dataclass(frozen=True, slots=True)
class VersionFigures:
    """One version; rates are None until there were two looks, quantiles also where nothing was answered."""

    model: str
    version: str
    state: str
    """As the supervisor says, else `serving` for what is loaded and `gone` for what was."""
    engine: str = ""
    precision: str = ""
    traffic: float | None = None
    """Share of the model's requests that it is to get, where the supervisor says so."""
    requests: int = 0
    requests_per_s: float | None = None
    errors_per_s: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    hit_rate: float | None = None
    """Share of the lookups in the cache that found an answer."""
    in_flight: int = 0
    arms_per_s: Mapping[str, float] = field(default_factory=dict)
    crashes: int | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class CacheFigures:
    """The result cache."""

    bytes: int
    max_bytes: int
    entries: int
    hit_rate: float | None
    evictions_per_s: float | None


@dataclass(frozen=True, slots=True)
class Figures:
    """All that one look shows; parts of which nobody told are None."""

    time_s: float
    interval_s: float | None
    """Between the two looks."""
    versions: tuple[VersionFigures, ...]
    requests_per_s: float | None = None
    errors_per_s: float | None = None
    in_flight: int | None = None
    cache: CacheFigures | None = None
    agent_version: str | None = None
    serving_bytes: int | None = None
    serving_up_s: float | None = None
    supervisor_bytes: int | None = None
    link_up: bool | None = None
    """To the fleet's broker."""
    outbox_events: int | None = None
    serving_problem: str = ""
    admin_problem: str = ""
    status: Status | None = None


def figures(now: Look, before: Look | None) -> Figures:
    """Return what a look shows, with the rates since the one before it."""
    status = now.status
    reports = _reports(status)
    if now.samples is None:
        versions = tuple(_version(key, told, None, None) for key, told in sorted(reports.items()))
        return Figures(
            time_s=now.time_s,
            interval_s=None,
            versions=versions,
            supervisor_bytes=now.supervisor_bytes,
            serving_problem=now.serving_problem,
            admin_problem=now.admin_problem,
            status=status,
        )
    page = _Page(now.samples)
    since = _since(page, now, before)
    keys = sorted(page.keys() | reports.keys())
    versions = tuple(sorted((_version(key, reports.get(key), page, since) for key in keys), key=_order))
    info = page.first("build_info")
    return Figures(
        time_s=now.time_s,
        interval_s=None if since is None else since.elapsed_s,
        versions=versions,
        requests_per_s=_rate(page, since, "requests_total"),
        errors_per_s=_rate(page, since, "request_errors_total"),
        in_flight=int(page.sum("requests_in_flight")),
        cache=_cache(page, since),
        agent_version=info.labels.get("agent_version") if info else None,
        serving_bytes=int(page.sum("serving_resident_memory_bytes")),
        serving_up_s=max(0.0, now.time_s - page.start_s),
        supervisor_bytes=now.supervisor_bytes,
        link_up=bool(link.value) if (link := page.first("link_up")) else None,
        outbox_events=int(outbox.value) if (outbox := page.first("outbox_events")) else None,
        admin_problem=now.admin_problem,
        status=status,
    )


class _Page:
    """One page of metrics, by what is looked for in it."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        self.start_s = self.sum("serving_start_time_seconds")

    def of(self, name: str, **labels: str) -> list[Sample]:
        return [
            sample
            for sample in self._samples.get(_PREFIX + name, ())
            if all(sample.labels.get(label) == value for label, value in labels.items())
        ]

    def first(self, name: str) -> Sample | None:
        return next(iter(self._samples.get(_PREFIX + name, ())), None)

    def sum(self, name: str, **labels: str) -> float:
        return sum(sample.value for sample in self.of(name, **labels))

    def keys(self) -> set[Key]:
        names = ("requests_total", "model_info")
        return {(one.labels["model"], one.labels["version"]) for name in names for one in self.of(name)}


@dataclass(frozen=True, slots=True)
class _Since:
    """The look before, or nothing if serving was started after it."""

    page: _Page | None
    elapsed_s: float

    def growth(self, page: _Page, name: str, **labels: str) -> float:
        was = self.page.sum(name, **labels) if self.page is not None else 0.0
        return max(0.0, page.sum(name, **labels) - was)


def _since(page: _Page, now: Look, before: Look | None) -> _Since | None:
    if before is None:
        return None
    elapsed_s = now.time_s - before.time_s
    was = _Page(before.samples) if before.samples is not None else None
    if was is None or was.start_s != page.start_s:
        if page.start_s < before.time_s:
            # It ran already and did not answer then: what it had counted is not known.
            return None
        was, elapsed_s = None, now.time_s - page.start_s
    return _Since(was, elapsed_s) if elapsed_s >= _SHORTEST_S else None


def _version(
    key: Key, told: Mapping[str, Any] | None, page: _Page | None, since: _Since | None
) -> VersionFigures:
    """Return a version's figures; `told` are the fields that the supervisor knows, if it was asked."""
    model, version = key
    names = {"model": model, "version": version}
    if told is None:
        told = _loaded(page, names)
    if page is None:
        return VersionFigures(model, version, **told)
    buckets = _bucket_growth(page, since, names)
    return VersionFigures(
        model,
        version,
        requests=int(page.sum("requests_total", **names)),
        requests_per_s=_rate(page, since, "requests_total", **names),
        errors_per_s=_rate(page, since, "request_errors_total", **names),
        p50_ms=_milliseconds(quantile(buckets, 0.5)),
        p99_ms=_milliseconds(quantile(buckets, 0.99)),
        hit_rate=_hit_rate(page, since, **names),
        in_flight=int(page.sum("requests_in_flight", **names)),
        arms_per_s=_arms(page, since, names),
        **told,
    )


def _reports(status: Status | None) -> dict[Key, dict[str, Any]]:
    """Return what the supervisor says of each version."""
    reports = status.reported.versions if status is not None else ()
    weights: dict[str, float] = defaultdict(float)
    for report in reports:
        weights[report.model] += report.weight
    return {(one.model, one.version): _told(one, weights[one.model]) for one in reports}


def _told(report: VersionReport, total_weight: float) -> dict[str, Any]:
    is_served = report.state == "serving" and total_weight > 0
    return {
        "state": report.state,
        "engine": report.engine,
        "precision": report.precision,
        "traffic": report.weight / total_weight if is_served else None,
        "crashes": report.crashes,
        "reason": report.reason,
    }


def _loaded(page: _Page | None, names: Mapping[str, str]) -> dict[str, Any]:
    """Return what the page of metrics alone says of a version."""
    info = page.of("model_info", **names) if page is not None else []
    if not info:
        return {"state": "gone"}
    labels = info[0].labels
    return {
        "state": "serving",
        "engine": labels.get("engine", ""),
        "precision": labels.get("precision", ""),
    }


def _rate(page: _Page, since: _Since | None, name: str, **labels: str) -> float | None:
    return None if since is None else since.growth(page, name, **labels) / since.elapsed_s


def _bucket_growth(
    page: _Page, since: _Since | None, names: Mapping[str, str]
) -> Sequence[tuple[float, float]]:
    if since is None:
        return ()
    name = "request_duration_seconds_bucket"
    growth: dict[float, float] = defaultdict(float)
    for sample in page.of(name, **names):
        growth[float(sample.labels["le"])] += sample.value
    for sample in since.page.of(name, **names) if since.page is not None else ():
        growth[float(sample.labels["le"])] -= sample.value
    return sorted(growth.items())


def _hit_rate(page: _Page, since: _Since | None, **names: str) -> float | None:
    if since is None:
        return None
    hits, misses = (
        since.growth(page, "cache_requests_total", result=result, **names) for result in ("hit", "miss")
    )
    return hits / (hits + misses) if hits + misses else None


def _arms(page: _Page, since: _Since | None, names: Mapping[str, str]) -> dict[str, float]:
    if since is None:
        return {}
    arms = sorted({sample.labels["arm"] for sample in page.of("arm_requests_total", **names)})
    rates = {arm: _rate(page, since, "arm_requests_total", arm=arm, **names) or 0.0 for arm in arms}
    return {arm: rate for arm, rate in rates.items() if rate}


def _cache(page: _Page, since: _Since | None) -> CacheFigures:
    return CacheFigures(
        bytes=int(page.sum("cache_bytes")),
        max_bytes=int(page.sum("cache_max_bytes")),
        entries=int(page.sum("cache_entries")),
        hit_rate=_hit_rate(page, since),
        evictions_per_s=_rate(page, since, "cache_evictions_total"),
    )


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3


def _order(version: VersionFigures) -> tuple[float, int, str, str]:
    return -(version.requests_per_s or 0.0), -version.requests, version.model, version.version
