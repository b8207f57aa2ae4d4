"""Tells a person what the agent reports: versions, events, the state of the last sync."""

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import msgspec

from edge_agent.cli.output import Output, duration, moment, size, table
from edge_agent.documents.errors import UnavailableError
from edge_agent.documents.messages import Event, SyncReport, SyncStep, VersionReport

T = TypeVar("T")

_STATE_STYLES = {"serving": "green", "quarantined": "red", "left_out": "red"}


def typed(value: Any, kind: type[T]) -> T:
    """Return a part of the agent's answer as its type; raises UnavailableError for another agent's."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise UnavailableError(
            f"The agent's answer is not what this command line expects ({error}); restart the agent, or use "
            "the edge-agent that it runs."
        ) from error


def version_lines(versions: Sequence[VersionReport], output: Output) -> Iterator[str]:
    """Yield a table of versions, then why some are not served."""
    if not versions:
        yield "No model is on this device."
        return
    shares = {version.model: 0.0 for version in versions}
    for version in versions:
        shares[version.model] += version.weight
    rows = [_row(version, shares[version.model]) for version in versions]
    headers = (
        "MODEL", "VERSION", "STATE", "ENGINE", "PRECISION", "TRAFFIC", "REQUESTS", "ERRORS", "CRASHES", "RUN",
        "MEMORY",
    )  # fmt: skip
    lines = table(headers, rows)
    yield output.style(lines[0], "bold")
    for version, line in zip(versions, lines[1:], strict=True):
        style = _STATE_STYLES.get(version.state)
        yield line.replace(version.state, output.style(version.state, style), 1) if style else line
    for version in versions:
        if version.reason:
            yield f"  {version.model} {version.version}: {version.reason}"


def event_lines(events: Sequence[Event], output: Output) -> Iterator[str]:
    """Yield one line for each event, oldest first."""
    for event in sorted(events, key=lambda event: event.time_s):
        actor = "" if event.actor == "agent" else f" (by {event.actor})"
        when = output.style(moment(event.time_s), "dim")
        yield f"{when}  {event.type.ljust(14)}  {event.message}{actor}"


def sync_sentence(sync: SyncReport, now_s: float) -> str:
    """Return how the last look at the store went."""
    words = {
        "never": "has not looked at the store yet",
        "running": "looking at the store now",
        "off": "off: no store is set",
        "ok": "ok",
        "paused": "paused",
        "failed": "failed",
    }[sync.state]
    if sync.finished_s is not None and sync.state in ("ok", "paused", "failed"):
        words += f", {duration(now_s - sync.finished_s)} ago"
    if sync.step is not None:
        words += f": {step_words(sync.step)}"
    elif sync.message:
        words += f": {sync.message}"
    if sync.expires_s is not None:
        left = sync.expires_s - now_s
        words += f"; trusted for {duration(left)} more" if left > 0 else f"; expired {duration(-left)} ago"
    return words


def step_words(step: SyncStep) -> str:
    """Return how far a sync is: `downloading, 1.0 MiB of 4.0 MiB, 512.0 KiB/s, 6 s left`."""
    words = step.step[:1].lower() + step.step[1:]
    if step.total_bytes:
        words += f", {size(step.done_bytes)} of {size(step.total_bytes)}"
        if step.rate_bytes_per_s:
            words += f", {size(round(step.rate_bytes_per_s))}/s"
        if step.eta_s is not None:
            words += f", {duration(step.eta_s)} left"
    return words


def _row(version: VersionReport, total_weight: float) -> tuple[str, ...]:
    share = 100 * version.weight / total_weight if total_weight else 0.0
    return (
        version.model,
        version.version,
        version.state,
        version.engine,
        version.precision,
        f"{share:.3g}%" if version.state == "serving" else "-",
        str(version.requests),
        str(version.errors),
        str(version.crashes),
        f"{version.probe.run_s * 1000:.3g} ms" if version.probe is not None and version.probe.run_s else "-",
        size(version.probe.peak_bytes) if version.probe is not None else "-",
    )
