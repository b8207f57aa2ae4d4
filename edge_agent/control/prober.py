"""Tries a version in the probe child, and judges a child that ended without a verdict."""

import math
import os
import signal
from typing import Final

from edge_agent.control.children import ChildEnd, MemoryLimits, converse
from edge_agent.control.supervise import FROM_OUTSIDE
from edge_agent.documents import ipc
from edge_agent.documents.plan import VersionPlan
from edge_agent.documents.settings import ProbeSettings, Settings
from edge_agent.telemetry.memory import free_bytes, total_bytes

RUNTIME_BYTES: Final = 64 * 2**20
"""What a probe takes beside the model: Python, numpy and a runtime."""
RESERVE_BYTES: Final = 32 * 2**20
"""Left to everybody else; on larger devices it is a twentieth of what they have."""


async def try_version(version: VersionPlan, settings: Settings) -> ipc.ProbeVerdict:
    """Run the probe within the settings' limits; raises OSError if it cannot be started.

    Where the device lacks the memory now, the version is not tried, and not to blame.
    """
    limits = memory_limits(settings.probe)
    if (lack := lack_of_memory(version, free_bytes() - limits.reserve_bytes)) is not None:
        return ipc.ProbeVerdict(outcome="inconclusive", reason=lack)
    verdicts: list[ipc.ProbeVerdict] = []
    end = await converse(
        "edge_agent.control.probe",
        ipc.ProbeRequest(version=version, engines=settings.engines, cpu_limit_s=cpu_limit_s(settings.probe)),
        ipc.ProbeVerdict,
        verdicts.append,
        silence_s=settings.probe.timeout_s,
        memory=limits,
    )
    return verdicts[-1] if verdicts else verdict_of(end)


def lack_of_memory(version: VersionPlan, free: int) -> str | None:
    """Say that the device has too few bytes free to try a version, None if it has enough."""
    need = RUNTIME_BYTES + (version.memory_bytes or version.size_bytes)
    if need <= free:
        return None
    return f"It needs about {need / 2**20:.0f} MiB of memory, and {max(0, free) / 2**20:.0f} MiB are free."


def memory_limits(settings: ProbeSettings) -> MemoryLimits:
    """Return how much memory a probe may take on this device."""
    total = total_bytes()
    return MemoryLimits(settings.memory_limit_bytes or total * 3 // 4, max(RESERVE_BYTES, total // 20))


def cpu_limit_s(settings: ProbeSettings) -> int:
    """Return how many seconds of processor time a probe may take."""
    return settings.cpu_limit_s or math.ceil(settings.timeout_s) * (os.cpu_count() or 1)


def verdict_of(end: ChildEnd) -> ipc.ProbeVerdict:
    """Judge a probe that ended without a verdict: a crash or hang is the model's fault, a kill is not."""
    if end.cause == "signal" and end.code in FROM_OUTSIDE:
        reason = "The probe was killed from outside, perhaps for lack of memory."
        return ipc.ProbeVerdict(outcome="inconclusive", reason=reason)
    if end.cause == "starved":
        return ipc.ProbeVerdict(outcome="inconclusive", reason=f"The probe {end.how}.")
    how = "took too much processor time" if (end.cause, end.code) == ("signal", signal.SIGXCPU) else end.how
    return ipc.ProbeVerdict(outcome="failed", reason=f"The probe {how} while it tried the model.")
