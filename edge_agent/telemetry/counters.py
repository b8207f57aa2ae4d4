"""What `/metrics` shows, in Prometheus' text format 0.0.4.

Written here rather than with prometheus_client, whose import takes 4.5 MB resident of the few dozen that
serving has. Source: https://prometheus.io/docs/instrumenting/exposition_formats/.
"""

import os
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from edge_agent.telemetry.sketch import Sketch
from edge_agent.telemetry.statistics import VersionStatistics

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

BUCKETS_S: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
"""Upper bounds of the duration histogram, in seconds."""

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(slots=True)
class VersionCounters:
    """What one version has done since the process started."""

    requests: int = 0
    duration_s: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_S) + 1))
    errors: dict[str, int] = field(default_factory=dict)
    in_flight: int = 0
    """Requests that wait or run at this moment."""
    arms: dict[str, int] = field(default_factory=dict)
    """Requests answered, errors included, by the arm that they were answered as."""
    cache_hits: int = 0
    """Requests answered without a run of their own."""
    cache_misses: int = 0
    cache_bypasses: int = 0
    """Requests that were neither looked up nor remembered."""
    latency_s: Sketch = field(default_factory=Sketch)
    """The durations again, as they can be merged over devices."""
    statistics: VersionStatistics = field(default_factory=VersionStatistics)
    loads: int = 0
    resident_bytes: int = 0
    """What the version takes in memory now, by what loading it added."""

    def observe(self, duration_s: float) -> None:
        """Count an answered request and how long it took from its last byte to its answer."""
        self.requests += 1
        self.duration_s += duration_s
        self.buckets[bisect_left(BUCKETS_S, duration_s)] += 1
        self.latency_s.add(duration_s)

    def note_arm(self, arm: str) -> None:
        """Count a request that was assigned and answered."""
        self.arms[arm] = self.arms.get(arm, 0) + 1

    def fail(self, kind: str) -> None:
        """Count a request that was answered with an error."""
        self.errors[kind] = self.errors.get(kind, 0) + 1


@dataclass(slots=True)
class CacheCounters:
    """How full the result cache is, and how many results had to make room for others."""

    max_bytes: int = 0
    bytes: int = 0
    entries: int = 0
    evictions: int = 0


@dataclass(frozen=True, slots=True)
class LinkState:
    """How the link to the fleet is."""

    up: bool
    outbox_events: int


@dataclass(frozen=True, slots=True)
class ServingInfo:
    """What `/metrics` tells beside the counts; `loaded` is (model, version, engine, precision)."""

    agent_version: str
    plan_id: str
    start_time_s: float
    loaded: tuple[tuple[str, str, str, str], ...]
    sequences: int = 0
    """Sequences whose state is kept."""


class Counters:
    """The counters of every version that was ever loaded, by model and version. For one thread."""

    def __init__(self) -> None:
        self._versions: dict[tuple[str, str], VersionCounters] = {}
        self.cache = CacheCounters()
        self.memory_budget_bytes = 0
        self.link: LinkState | None = None
        """What the supervisor said of its link to the fleet, None while it has none."""

    @property
    def versions(self) -> "_Versions":
        """All counters, by model and version."""
        return self._versions

    def of(self, model: str, version: str) -> VersionCounters:
        """Return a version's counters, new ones at its first mention."""
        counters = self._versions.get((model, version))
        if counters is None:
            counters = self._versions[model, version] = VersionCounters()
        return counters

    def render(self, info: ServingInfo) -> bytes:
        """Return all of it as text."""
        lines: list[str] = []
        families = (
            *_families(self._versions, self.cache, info),
            *_memory_families(self._versions, self.memory_budget_bytes),
            *_link_families(self.link),
        )
        for name, kind, text, samples in families:
            lines += (f"# HELP {name} {text}", f"# TYPE {name} {kind}", *samples)
        return ("\n".join(lines) + "\n").encode()


_Versions = Mapping[tuple[str, str], VersionCounters]
_Family = tuple[str, str, str, Iterable[str]]


def _families(versions: _Versions, cache: CacheCounters, info: ServingInfo) -> Iterable[_Family]:
    labelled = [(_labels(model=m, version=v), counters) for (m, v), counters in versions.items()]
    name = "edge_agent_requests_total"
    yield (
        name,
        "counter",
        "Inference requests answered, errors included.",
        [f"{name}{{{labels}}} {counters.requests}" for labels, counters in labelled],
    )
    name = "edge_agent_request_errors_total"
    yield (
        name,
        "counter",
        "Inference requests answered with an error, by kind.",
        [
            f"{name}{{{labels},{_labels(kind=kind)}}} {count}"
            for labels, counters in labelled
            for kind, count in counters.errors.items()
        ],
    )
    name = "edge_agent_request_duration_seconds"
    yield (
        name,
        "histogram",
        "From the last byte of an inference request to its answer.",
        [line for labels, counters in labelled for line in _histogram(name, labels, counters)],
    )
    name = "edge_agent_requests_in_flight"
    yield (
        name,
        "gauge",
        "Inference requests that wait or run.",
        [f"{name}{{{labels}}} {counters.in_flight}" for labels, counters in labelled],
    )
    yield from _arm_and_cache_families(labelled)
    yield from _cache_size_families(cache)
    yield from _process_families(info)


def _arm_and_cache_families(labelled: Sequence[tuple[str, VersionCounters]]) -> Iterable[_Family]:
    name = "edge_agent_arm_requests_total"
    yield (
        name,
        "counter",
        "Inference requests answered, errors included, by arm.",
        [
            f"{name}{{{labels},{_labels(arm=arm)}}} {count}"
            for labels, counters in labelled
            for arm, count in counters.arms.items()
        ],
    )
    name = "edge_agent_cache_requests_total"
    yield (
        name,
        "counter",
        "Inference requests by what the result cache did: hit, miss or bypass.",
        [
            f"{name}{{{labels},{_labels(result=result)}}} {count}"
            for labels, counters in labelled
            for result, count in (
                ("hit", counters.cache_hits),
                ("miss", counters.cache_misses),
                ("bypass", counters.cache_bypasses),
            )
        ],
    )


def _cache_size_families(cache: CacheCounters) -> Iterable[_Family]:
    name = "edge_agent_cache_bytes"
    yield name, "gauge", "Memory of the remembered results.", [f"{name} {cache.bytes}"]
    name = "edge_agent_cache_max_bytes"
    yield name, "gauge", "Memory that remembered results may take.", [f"{name} {cache.max_bytes}"]
    name = "edge_agent_cache_entries"
    yield name, "gauge", "Remembered results.", [f"{name} {cache.entries}"]
    name = "edge_agent_cache_evictions_total"
    yield name, "counter", "Results that made room for others.", [f"{name} {cache.evictions}"]


def _memory_families(versions: _Versions, budget_bytes: int) -> Iterable[_Family]:
    labelled = [(_labels(model=m, version=v), counters) for (m, v), counters in versions.items()]
    name = "edge_agent_model_loads_total"
    yield (
        name,
        "counter",
        "Loads of a version, for a plan or because a request came for it.",
        [f"{name}{{{labels}}} {counters.loads}" for labels, counters in labelled],
    )
    name = "edge_agent_model_resident_bytes"
    yield (
        name,
        "gauge",
        "Memory that loading a version has added; 0 while it is not loaded.",
        [f"{name}{{{labels}}} {counters.resident_bytes}" for labels, counters in labelled],
    )
    name = "edge_agent_memory_budget_bytes"
    yield name, "gauge", "Memory that all models together may take; 0 is no limit.", [f"{name} {budget_bytes}"]


def _link_families(link: LinkState | None) -> Iterable[_Family]:
    if link is None:
        return
    name = "edge_agent_link_up"
    yield name, "gauge", "Whether there is a connection to the fleet's broker.", [f"{name} {int(link.up)}"]
    name = "edge_agent_outbox_events"
    text = "Events that the fleet's broker has not acknowledged."
    yield name, "gauge", text, [f"{name} {link.outbox_events}"]


def _process_families(info: ServingInfo) -> Iterable[_Family]:
    name = "edge_agent_model_info"
    yield (
        name,
        "gauge",
        "The versions that are served.",
        [
            f"{name}{{{_labels(model=model, version=version, engine=engine, precision=precision)}}} 1"
            for model, version, engine, precision in info.loaded
        ],
    )
    name = "edge_agent_build_info"
    labels = _labels(agent_version=info.agent_version, plan=info.plan_id)
    yield name, "gauge", "The agent's version and the plan that is served.", [f"{name}{{{labels}}} 1"]
    name = "edge_agent_sequences"
    yield name, "gauge", "Sequences of requests whose state is kept.", [f"{name} {info.sequences}"]
    name = "edge_agent_serving_start_time_seconds"
    yield name, "gauge", "When the serving process started, in Unix time.", [f"{name} {info.start_time_s:.3f}"]
    name = "edge_agent_serving_resident_memory_bytes"
    yield name, "gauge", "Resident memory of the serving process.", [f"{name} {resident_bytes()}"]


def _histogram(name: str, labels: str, counters: VersionCounters) -> Iterable[str]:
    total = 0
    for bound, count in zip((*map(str, BUCKETS_S), "+Inf"), counters.buckets, strict=True):
        total += count
        yield f'{name}_bucket{{{labels},le="{bound}"}} {total}'
    yield f"{name}_sum{{{labels}}} {counters.duration_s:.9f}"
    yield f"{name}_count{{{labels}}} {total}"


def _labels(**values: str) -> str:
    return ",".join(f'{name}="{_escape(value)}"' for name, value in values.items())


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def resident_bytes() -> int:
    """Return this process's resident memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
