"""When this device may change what it serves, and when it may fetch: its own windows, and the deployment's."""

import os
from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo

from edge_agent.documents.messages import Wait
from edge_agent.documents.plan import Plan
from edge_agent.documents.settings import UpdateSettings
from edge_agent.documents.windows import Hours, Zone, parse_hours
from edge_agent.policy.schedule import Opening, Schedule, opening
from edge_agent.policy.urgency import is_urgent
from edge_agent.store.state import DeployedState

LOCAL_TIME = Path("/etc/localtime")


class Maintenance:
    """The windows of one device.

    `clock` gives Unix time; `at_once` says whether an operator is there who will not wait for a window.
    """

    def __init__(
        self, settings: UpdateSettings, clock: Callable[[], float], at_once: Callable[[], bool] = lambda: False
    ) -> None:
        self._own = settings.window
        self._download_outside = settings.download_outside_window
        self._clock = clock
        self._at_once = at_once

    def may_activate(self, state: DeployedState) -> bool:
        """Say whether the target, if there is one, may take over now."""
        target = state.target
        if target is None or not (self._own or target.window) or self._at_once():
            return True
        if is_urgent(target, state.current, state.previous, state.quarantine, state.held):
            return True
        return self._opening(self._own, target.window).is_open

    def download_until_s(self) -> float | None:
        """Return when downloads have to pause, Unix time: now where they may not begin; None for never."""
        if self._download_outside:
            return None
        found = self._opening(self._own)
        return found.closes_s if found.is_open else self._clock()

    def downloads_resume_s(self) -> float | None:
        """Return when downloads may begin next, Unix time."""
        return self._opening(self._own).opens_s

    def wait(self, target: Plan) -> Wait:
        """Tell for what a target waits that may not be activated yet."""
        opens_s = self._opening(self._own, target.window).opens_s
        head = f"Serial {target.serial} is here and waits for"
        if opens_s is None:
            windows = " and ".join(window for window in (self._own, target.window) if window)
            return Wait("window", None, f"{head} a time that is in all of its windows, and none is: {windows}.")
        message = f"{head} the maintenance window that opens {shown_time(opens_s)}."
        return Wait("window", opens_s, message)

    def _opening(self, *texts: str | None) -> Opening:
        schedules = [_schedule(parse_hours(text)) for text in texts if text]
        return opening(schedules, datetime.fromtimestamp(self._clock(), UTC))


def shown_time(unix_s: float) -> str:
    """Return a time for a person, by the device's clock: `Thu 2026-11-26 02:00 CET`."""
    return datetime.fromtimestamp(unix_s, zone_of("local")).strftime("%a %Y-%m-%d %H:%M %Z")


def zone_of(zone: Zone) -> tzinfo:
    """Return the time zone: UTC, or that of this device, as the variable TZ or /etc/localtime says now."""
    if zone == "UTC":
        return UTC
    try:
        if name := os.environ.get("TZ", "").removeprefix(":"):
            return ZoneInfo(name)
        with LOCAL_TIME.open("rb") as file:
            return ZoneInfo.from_file(file, key="local")
    except (OSError, ValueError, KeyError):
        # What is now is right until the clocks are changed; the next look asks again.
        return datetime.now().astimezone().tzinfo or UTC


def _schedule(hours: Hours) -> Schedule:
    return Schedule(hours.windows, zone_of(hours.zone))
