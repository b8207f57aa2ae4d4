"""The counters as the supervisor tells them to the fleet."""

from edge_agent.documents import messages
from edge_agent.documents.plan import Plan
from edge_agent.telemetry.counters import Counters


def metrics_message(counters: Counters, plan: Plan, started_s: float, now_s: float) -> messages.MetricsMessage:
    """Return the cumulative counts since `started_s`; both times are Unix time."""
    arms = {(version.model, version.version): version.arm for version in plan.versions}
    return messages.MetricsMessage(
        time_s=now_s,
        started_s=started_s,
        versions=tuple(
            messages.VersionCounters(
                model=model,
                version=version,
                arm=arms.get((model, version)) or version,
                requests=found.requests,
                errors=sum(found.errors.values()),
                cache_hits=found.cache_hits,
                cache_misses=found.cache_misses,
                latency_s=found.latency_s.to_builtins(),
            )
            for (model, version), found in counters.versions.items()
        ),
        cache_bytes=counters.cache.bytes,
        cache_entries=counters.cache.entries,
        cache_evictions=counters.cache.evictions,
    )
