"""How the collector's progress, the fleet's state and experiments are shown to a person."""

import math
from datetime import UTC, datetime

from rich.table import Table

from edge_agent.documents.messages import VersionReport
from edge_fleet.analyse import ArmResult, Comparison, Estimate
from edge_fleet.collect import Progress
from edge_fleet.reports import Report, Reports
from edge_fleet.sample_ratio import ALARM, RatioCheck
from edge_fleet.show import new_console, new_table, show
from edge_fleet.status import DeviceStatus, FleetStatus


def progress_line(progress: Progress) -> str:
    """Return one line that says how far the collector is."""
    broker = "" if progress.connected else "broker away; "
    line = (
        f"{broker}{progress.messages} messages ({progress.new} new); {progress.devices} devices, "
        f"{progress.online} online; {progress.events} events, {progress.sums} sums of outcomes"
    )
    return f"{line}; {progress.invalid} invalid" if progress.invalid else line


@show.register
def _(progress: Progress) -> None:
    new_console().print(f"Stored {progress_line(progress)}.")


@show.register
def _(status: FleetStatus) -> None:
    console = new_console()
    if not status.devices:
        console.print("No device matches: the collector has heard of none, or the filters leave none.")
        return
    table = new_table("device", "state", "group", "serial", "runs", "last seen (UTC)")
    for device in status.devices:
        runs = ", ".join(map(_version, device.versions)) or "-"
        _add_row(
            table,
            device.device,
            _state(device),
            device.group or "-",
            _serial(device),
            runs,
            _time(device.seen_s),
        )
    console.print(table)
    for device in status.devices:
        for problem in device.problems:
            console.print(f"{device.device}: {_plain(problem)}", style="yellow")
    counts = new_table("group", "serial", "devices", "online")
    for count in status.serials:
        _add_row(counts, count.group, str(count.serial), str(count.devices), str(count.online))
    if status.serials:
        console.print()
        console.print(counts)


@show.register
def _(reports: Reports) -> None:
    console = new_console()
    for place, report in enumerate(reports.reports):
        if place:
            console.print()
        _show_report(report)


def _show_report(report: Report) -> None:
    console = new_console()
    devices = f"{report.devices} device{'s' * (report.devices != 1)}"
    console.print(
        _plain(f"Experiment {report.experiment}, model {report.model}, epoch {report.epoch}, {devices}:"),
        style="bold",
    )
    if not report.comparisons:
        table = new_table("arm", "predictions")
        for arm, count in report.exposures.items():
            _add_row(table, arm, str(count))
        console.print(table)
        console.print("There are no outcomes yet.")
    for comparison in report.comparisons:
        _show_comparison(comparison)
    if report.ratio is not None:
        text, alarming = _ratio(report.ratio)
        console.print(_plain(text), style="red" if alarming else "")


def _show_comparison(comparison: Comparison) -> None:
    console = new_console()
    control = comparison.arms[0].arm if comparison.arms else "control"
    table = new_table(
        "arm", "predictions", "outcomes", "mean", "95 % interval", f"less {control}", "95 % interval"
    )
    for arm in comparison.arms:
        _add_row(table, *_arm(arm))
    for arm in comparison.reserved:
        _add_row(table, f"({arm.arm})", *_arm(arm)[1:])
    console.print(f"{_plain(comparison.metric)}:")
    console.print(table)
    console.print(f"Unit of analysis: {comparison.cluster}.")


def _arm(arm: ArmResult) -> list[str]:
    cells = [arm.arm, str(arm.exposures), str(arm.n), _value(arm.mean), _interval(arm.mean)]
    if arm.difference is None:
        return [*cells, "", ""]
    return [*cells, _value(arm.difference, "+"), _interval(arm.difference, "+")]


def _value(estimate: Estimate, sign: str = "") -> str:
    if estimate.value is None:
        return "-"
    if estimate.standard_error is None:
        return f"{estimate.value:{sign}.4g}"
    places = _places(estimate.standard_error)
    return f"{estimate.value:{sign}.{places}f} ± {estimate.standard_error:.{places}f}"


def _interval(estimate: Estimate, sign: str = "") -> str:
    if estimate.low is None or estimate.high is None or estimate.standard_error is None:
        return "too few" if estimate.value is not None else "-"
    places = _places(estimate.standard_error)
    return f"{estimate.low:{sign}.{places}f} to {estimate.high:{sign}.{places}f}"


def _places(error: float) -> int:
    """Return how many decimals show two digits of a standard error, where it is more than rounding."""
    return 4 if error < 1e-9 else min(max(1 - math.floor(math.log10(error)), 0), 9)


def _ratio(ratio: RatioCheck) -> tuple[str, bool]:
    shares = ", ".join(
        f"{arm} {count} (expected {ratio.expected[arm]:.0f})" for arm, count in ratio.observed.items()
    )
    text = f"Sample ratio of {ratio.counted}: {shares}"
    if ratio.p is not None:
        text += f", p = {ratio.p:.2g}"
    if ratio.note:
        text += f"; {ratio.note}"
    if ratio.is_alarming:
        return (
            f"{text}. Chance gives this less than once in {1 / ALARM:.0f} times: find out why before you trust "
            "the means. If the weights were changed during the epoch, compare an epoch of its own."
        ), True
    return f"{text}.", False


def _add_row(table: Table, *cells: str) -> None:
    table.add_row(*map(_plain, cells))


def _plain(text: str) -> str:
    """Return text of a device without anything that a terminal would obey."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def _version(version: VersionReport) -> str:
    state = "" if version.state == "serving" else f" ({version.state.replace('_', ' ')})"
    return f"{version.model} {version.version}{state}"


def _state(device: DeviceStatus) -> str:
    return {True: "online", False: "offline", None: "unknown"}[device.online]


def _serial(device: DeviceStatus) -> str:
    if device.serial is None:
        return "-"
    return (
        f"{device.serial}" if device.target_serial is None else f"{device.serial} (has {device.target_serial})"
    )


def _time(time_s: float | None) -> str:
    return "-" if time_s is None else f"{datetime.fromtimestamp(time_s, UTC):%Y-%m-%d %H:%M:%S}"
