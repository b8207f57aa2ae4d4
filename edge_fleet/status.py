"""What the fleet's devices run, as they told the collector. Pure, but for reading the database."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from edge_agent.documents.messages import VersionReport
from edge_fleet.fleet_db import DeviceRow


@dataclass(frozen=True, slots=True)
class Filter:
    """Which devices to show; None shows all."""

    group: str | None = None
    online: bool | None = None
    model: str | None = None
    problems: bool = False
    """Only devices with a problem."""

    def matches(self, device: "DeviceStatus") -> bool:
        """Say whether a device is to be shown."""
        return (
            self.group in (None, device.group)
            and self.online in (None, device.online)
            and (self.model is None or self.model in {version.model for version in device.versions})
            and not (self.problems and not device.problems)
        )


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """One device."""

    device: str
    online: bool | None
    """None if it never told."""
    seen_s: float | None
    """When a message came from it last, Unix time of the collector's clock; None if none came yet."""
    group: str | None
    serial: int | None
    """The serial that runs."""
    target_serial: int | None
    """The serial that was fetched but is not active."""
    agent_version: str | None
    versions: tuple[VersionReport, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SerialCount:
    """How many devices of a group run a serial."""

    group: str
    serial: int
    devices: int
    online: int


@dataclass(frozen=True, slots=True)
class FleetStatus:
    """The devices that were asked for, and the counts of their groups."""

    devices: tuple[DeviceStatus, ...]
    serials: tuple[SerialCount, ...]


def fleet_status(rows: Iterable[DeviceRow], wanted: Filter) -> FleetStatus:
    """Return what the devices run that match the filter."""
    devices = tuple(device for device in map(_device, rows) if wanted.matches(device))
    told = [(device.group, device.serial, device.online) for device in devices]
    counts = Counter((group, serial) for group, serial, _ in told if group is not None and serial is not None)
    online = Counter((group, serial) for group, serial, connected in told if connected)
    return FleetStatus(
        devices,
        tuple(
            SerialCount(group, serial, count, online[group, serial])
            for (group, serial), count in sorted(counts.items(), key=lambda item: (item[0][0], -item[0][1]))
        ),
    )


def _device(row: DeviceRow) -> DeviceStatus:
    reported = row.reported
    problems = list(() if reported is None else reported.problems)
    if row.invalid:
        problems.append(
            f"It sent {row.invalid} message{'s' * (row.invalid > 1)} that the collector cannot read."
        )
    return DeviceStatus(
        device=row.device,
        online=row.online,
        seen_s=row.seen_s,
        group=None if reported is None else reported.group,
        serial=None if reported is None else reported.serial,
        target_serial=None if reported is None else reported.target_serial,
        agent_version=None if reported is None else reported.agent_version,
        versions=() if reported is None else reported.versions,
        problems=tuple(problems),
    )
