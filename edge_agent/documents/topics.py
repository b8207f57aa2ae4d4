"""The MQTT topics of a fleet, as the design lays them out; one place for devices and fleet tools."""

import re
from dataclasses import dataclass
from typing import Final

LEVEL: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What a topic level of ours may be: fleet, device, group."""


@dataclass(frozen=True, slots=True)
class Topics:
    """Topics of one fleet: `<prefix>/<fleet>/…`."""

    prefix: str
    fleet: str

    def up(self, device: str, *levels: str) -> str:
        """Return where a device publishes: `status`, `reported`, `event/<type>`, `metrics`, `ab/<name>`."""
        return "/".join((self.prefix, self.fleet, device, "up", *levels))

    def down(self, device: str, *levels: str) -> str:
        """Return what a device subscribes to: `cmd/<verb>`."""
        return "/".join((self.prefix, self.fleet, device, "down", *levels))

    def desired(self, group: str) -> str:
        """Return where the retained hint of a group is: look at the store, there is this serial."""
        return "/".join((self.prefix, self.fleet, "_group", group, "desired"))

    @property
    def all_up(self) -> str:
        """The filter of a collector."""
        return "/".join((self.prefix, self.fleet, "+", "up", "#"))

    def parse_up(self, topic: str) -> tuple[str, tuple[str, ...]] | None:
        """Return the device and the levels after `up`, or None for a topic of another shape."""
        head = f"{self.prefix}/{self.fleet}/"
        device, *levels = topic.removeprefix(head).split("/")
        if not topic.startswith(head) or len(levels) < 2 or levels[0] != "up" or not LEVEL.fullmatch(device):
            return None
        return device, tuple(levels[1:])


def matches(topic_filter: str, topic: str) -> bool:
    """Say whether a filter takes a topic, as MQTT 5 has it in section 4.7."""
    wanted, given = topic_filter.split("/"), topic.split("/")
    if topic.startswith("$") and wanted[0] in ("+", "#"):
        return False
    for index, level in enumerate(wanted):
        if level == "#":
            return True
        if index >= len(given) or level not in ("+", given[index]):
            return False
    return len(given) == len(wanted)


def is_filter(text: str) -> bool:
    """Say whether a text is a topic filter: wildcards stand alone in their level, `#` in the last."""
    levels = text.split("/")
    return (
        0 < len(text.encode()) < 2**16
        and "\0" not in text
        and all(level in ("+", "#") or not set(level) & set("+#") for level in levels)
        and "#" not in levels[:-1]
    )
