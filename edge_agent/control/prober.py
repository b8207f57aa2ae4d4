"""Tries a version in the probe child, and judges a child that ended without a verdict."""

from edge_agent.control.children import ChildEnd, converse
from edge_agent.control.supervise import FROM_OUTSIDE
from edge_agent.documents import ipc
from edge_agent.documents.plan import VersionPlan
from edge_agent.documents.settings import Settings


async def try_version(version: VersionPlan, settings: Settings) -> ipc.ProbeVerdict:
    """Run the probe within the settings' limits; raises OSError if it cannot be started."""
    verdicts: list[ipc.ProbeVerdict] = []
    end = await converse(
        "edge_agent.control.probe",
        ipc.ProbeRequest(version=version, engines=settings.engines),
        ipc.ProbeVerdict,
        verdicts.append,
        silence_s=settings.probe.timeout_s,
        memory_limit_bytes=settings.probe.memory_limit_bytes,
    )
    return verdicts[-1] if verdicts else verdict_of(end)


def verdict_of(end: ChildEnd) -> ipc.ProbeVerdict:
    """Judge a probe that ended without a verdict: a crash or hang is the model's fault, a kill is not."""
    if end.cause == "signal" and end.code in FROM_OUTSIDE:
        reason = "the probe was killed from outside, perhaps for lack of memory"
        return ipc.ProbeVerdict(outcome="inconclusive", reason=reason)
    return ipc.ProbeVerdict(outcome="failed", reason=f"The probe {end.how} while it tried the model.")
