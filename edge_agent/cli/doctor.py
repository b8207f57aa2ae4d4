"""`edge-agent doctor`: look at everything that commonly goes wrong, and say what to do."""

import argparse
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

from edge_agent.cli import checks, device_checks
from edge_agent.cli.broker_check import brokers
from edge_agent.cli.checks import Finding
from edge_agent.cli.options import load_settings
from edge_agent.cli.output import Output
from edge_agent.cli.sockets import add_socket, runtime_folder
from edge_agent.client import Client
from edge_agent.documents.errors import EdgeAgentError, SettingsError
from edge_agent.documents.settings import Settings
from edge_agent.store.layout import RuntimeLayout, state_layout

DESCRIPTION = """\
Check this host: Python and runtimes, settings, state folder, disk, clock, trust and its expiry, store, brokers,
the probe's limits, the quarantine, the agent and its sockets. Each line says ok, warn or fail and what to do;
the exit code is 1 if anything fails."""

EXAMPLES = """\
  edge-agent doctor
  sudo edge-agent doctor
  edge-agent doctor --json | jq '.findings[] | select(.outcome != "ok")'
"""

_STYLES = {"ok": "green", "warn": "yellow", "fail": "red"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command's options."""
    add_socket(parser)


def run(args: argparse.Namespace) -> int:
    """Run the checks and print what they find, each as soon as it is known."""
    output = Output(args.json)
    findings = []
    for finding in examine(args):
        findings.append(finding)
        if not output.as_json:
            output.line(line(finding, output))
    failed = any(finding.outcome == "fail" for finding in findings)
    output.show({"healthy": not failed, "findings": [asdict(finding) for finding in findings]}, list)
    return 1 if failed else 0


def line(finding: Finding, output: Output) -> str:
    """Return one finding for a person."""
    outcome = output.style(finding.outcome.ljust(4), _STYLES[finding.outcome])
    return f"{outcome}  {finding.check.ljust(8)}  {finding.message}"


def examine(args: argparse.Namespace) -> Iterator[Finding]:
    """Yield what every check finds; a check that breaks is a finding itself."""
    yield from guarded("software", checks.software)
    yield from guarded("runtime", checks.runtimes)
    try:
        loaded = load_settings(args)
    except SettingsError as error:
        yield from checks.settings_problems(error)
        return
    files = ", ".join(str(path) for path in loaded.files)
    yield Finding("settings", "ok", f"valid ({files or 'no file, all defaults'})")
    yield from _of_host(loaded.settings)
    runtime = RuntimeLayout(args.socket.parent if args.socket else runtime_folder(args))
    yield from guarded("agent", lambda: checks.agent(runtime))
    if runtime.admin_socket.exists():
        yield from guarded("serving", lambda: [serving(runtime.infer_socket)])


def _of_host(settings: Settings) -> Iterator[Finding]:
    layout = state_layout(settings.paths)
    now_s = time.time()
    quick = replace(
        settings,
        store=replace(settings.store, timeout_s=min(settings.store.timeout_s, checks.STORE_TIMEOUT_S)),
    )
    yield from guarded("grpc", lambda: checks.grpc(settings.grpc))
    yield from guarded("state", lambda: checks.state_folder(layout))
    yield from guarded("disk", lambda: [checks.disk(layout)])
    yield from guarded("clock", lambda: [checks.clock(now_s)])
    yield from guarded("trust", lambda: [checks.trusted_root(settings, layout, now_s)])
    yield from guarded("trust", lambda: device_checks.expiry(layout, now_s))
    yield from guarded("store", lambda: [checks.store(quick)])
    yield from guarded("mqtt", lambda: brokers(settings))
    yield from guarded("probe", lambda: [device_checks.confinement()])
    yield from guarded("versions", lambda: device_checks.quarantine(layout))


def guarded(name: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """Yield a check's findings, or that it broke."""
    try:
        yield from check()
    except Exception as error:
        yield Finding(name, "fail", f"This check broke ({type(error).__name__}: {error}); please report it.")


def serving(path: Path) -> Finding:
    """Whether apps get answers."""
    try:
        with Client(str(path)) as client:
            is_ready = client.ready()
    except EdgeAgentError as error:
        return Finding("serving", "fail", str(error))
    if not is_ready:
        return Finding("serving", "warn", f"{path} answers, but is not ready; see edge-agent status.")
    return Finding("serving", "ok", f"{path} answers")
