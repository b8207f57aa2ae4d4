"""Which version to blame for crashes of the serving process, and how soon to start it again. Pure."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Incident:
    """One crash or hang: when (Unix time), and the versions that were inside native code, by key."""

    time_s: float
    suspects: tuple[str, ...]


def within(incidents: Sequence[Incident], now_s: float, window_s: float) -> tuple[Incident, ...]:
    """Keep the incidents of the last `window_s` seconds; one from the future (a clock set back) is kept."""
    return tuple(incident for incident in incidents if now_s - incident.time_s <= window_s)


def blamed(incidents: Sequence[Incident], limit: int, settled: Collection[str]) -> str | None:
    """Return the version to leave out, or None while no version has `limit` incidents.

    Where several were marked at once, one is taken at a time: the one in most incidents, then the one that
    stood alone most often, then one that is not in `settled` (versions that served well before).
    """
    counts = Counter(key for incident in incidents for key in incident.suspects)
    alone = Counter(incident.suspects[0] for incident in incidents if len(incident.suspects) == 1)
    over = [key for key, count in counts.items() if count >= limit]
    return max(over, key=lambda key: (counts[key], alone[key], key not in settled, key), default=None)


def without(incidents: Sequence[Incident], key: str) -> tuple[Incident, ...]:
    """Drop the incidents that leaving out this version explains."""
    return tuple(incident for incident in incidents if key not in incident.suspects)


def companions(incidents: Sequence[Incident], key: str) -> tuple[str, ...]:
    """Return the versions that ran beside this one in its incidents; none if it ran alone in any of them."""
    found = [set(incident.suspects) for incident in incidents if key in incident.suspects]
    return tuple(sorted(set.union(*found) - {key})) if found and all(len(one) > 1 for one in found) else ()


def cleared(doubted: Mapping[str, Sequence[str]], key: str) -> tuple[str, ...]:
    """Return those that were blamed only because they ran beside this one, which has gone on without them."""
    return tuple(name for name, beside in doubted.items() if key in beside)


def restart_delay_s(recent_crashes: int) -> float:
    """Return how long to wait before the next start, given the crashes of the last minute.

    The first ones restart at once; a process that cannot start at all must not eat the processor.
    """
    if recent_crashes <= 5:
        return 0.0
    return float(min(30.0, 0.5 * 2.0 ** (recent_crashes - 6)))


def suspects(
    marked: Collection[str], loading: str | None, *, is_clean: bool, from_outside: bool, ran_out: bool
) -> tuple[str, ...]:
    """Return the versions to charge for the end of the serving process.

    `marked` were inside native code, `loading` was being loaded, perhaps between two calls. A kill from outside
    is charged to nobody, unless the kernel did it as memory `ran_out` while a version was loaded: that one then
    asked for too much.
    """
    if is_clean:
        return ()
    if not from_outside:
        return tuple(sorted(marked)) or ((loading,) if loading is not None else ())
    return (loading,) if ran_out and loading is not None else ()
