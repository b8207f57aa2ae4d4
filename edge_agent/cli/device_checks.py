"""What `edge-agent doctor` looks at beside the host: quarantine, expiry, how far the probe is confined."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC
from typing import Final

import msgspec

from edge_agent.cli.checks import Finding
from edge_agent.cli.output import duration
from edge_agent.control.trusted_files import contents_of, expiry_of, role_of, signed_part
from edge_agent.documents.ipc import ProbeRequest, ProbeVerdict
from edge_agent.documents.settings import EngineSettings
from edge_agent.policy.expiry import remedy
from edge_agent.store import state as state_file
from edge_agent.store.layout import StateLayout

TRIAL_TIMEOUT_S: Final = 30.0
_CPU_LIMIT_S: Final = 30


def quarantine(layout: StateLayout) -> Iterator[Finding]:
    """What shall not run here; nothing where nothing was deployed yet."""
    if not layout.state.exists():
        return
    state, problem = state_file.load(layout.state)
    if problem is not None:
        yield Finding("state", "fail", f"{problem} 'edge-agent verify' looks at the rest.")
        return
    for entry in state.quarantine.values():
        yield Finding(
            "versions",
            "warn",
            f"{entry.model} {entry.version} is in quarantine: {entry.reason} Publish another version, or: "
            f"edge-agent quarantine release {entry.model} {entry.version}",
        )
    if not state.quarantine:
        yield Finding("versions", "ok", "nothing is in quarantine")


def expiry(layout: StateLayout, now_s: float) -> Iterator[Finding]:
    """Whether the newest metadata that was verified here is still good, and for how long."""
    folder = layout.trust / "current"
    kept = {role_of(folder / name): expiry_of(signed_part(data)) for name, data in contents_of(folder).items()}
    known = [(when, role) for role, when in kept.items() if when is not None and role != "root"]
    if not known:
        return
    first, role = min(known)
    left_s = first.timestamp() - now_s
    if left_s > 0:
        yield Finding("trust", "ok", f"what was verified last is good for {duration(left_s)} more ({role})")
        return
    yield Finding(
        "trust",
        "warn",
        f"The {role} metadata expired {duration(-left_s)} ago ({first.astimezone(UTC):%Y-%m-%d %H:%M} UTC); "
        f"what runs is served on, and updates stop until the store is refreshed ({remedy(role)}) and reached.",
    )


def confinement() -> Finding:
    """Whether this host lets the probe give up network, files and privileges."""
    request = ProbeRequest(version=None, engines=EngineSettings(), cpu_limit_s=_CPU_LIMIT_S)
    try:
        child = subprocess.run(
            [sys.executable, "-P", "-m", "edge_agent.control.probe"],
            input=msgspec.json.encode(request) + b"\n",
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=TRIAL_TIMEOUT_S,
            check=True,
        )
        gaps = msgspec.json.decode(child.stdout, type=ProbeVerdict).gaps
    except (OSError, subprocess.SubprocessError, msgspec.MsgspecError) as error:
        return Finding("probe", "fail", f"The probe, which tries new versions, does not start: {error}.")
    if gaps:
        said = "; ".join(gaps)
        return Finding(
            "probe", "warn", f"New versions are tried with less around them than they should: {said}."
        )
    return Finding("probe", "ok", "new versions are tried without network and with limits")
