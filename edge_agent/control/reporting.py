"""Tells the fleet how things are: what really runs, the metrics, and the sums of the experiments.

Each is told by its latest value alone, so that nothing has to be kept for a broker that is away.
"""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from edge_agent.control.broker_link import MqttClient
from edge_agent.control.complaints import Complaints
from edge_agent.control.exposures import Exposures
from edge_agent.control.journal import Journal
from edge_agent.control.mqtt import Message
from edge_agent.documents.errors import EdgeAgentError, StorageError, UnavailableError
from edge_agent.documents.messages import AbMessage, ArmSums, MetricsMessage, Reported
from edge_agent.documents.topics import Topics
from edge_agent.store.outcomes_db import EpochSums, Mark, read_sums

PAYLOAD_LIMIT_BYTES: Final = 100_000
RETELL_INTERVAL_S: Final = 600.0
"""How often unchanged sums are told: a broker that forgot them, or had no collector, has them again."""
STEP_INTERVAL_S: Final = 10.0
STEP_SHARE: Final = 0.1
"""How often a download is told: after this time, or this share of its bytes."""
LOOK_INTERVAL_S: Final = 0.5
"""How often the report is compared with the one that was told last."""

_EpochKey = tuple[str, str, str, int]
"""Database, model, experiment, epoch."""


class Publisher:
    """Publishes under this device's `up`; what fails for another reason than the network becomes an event."""

    def __init__(self, client: MqttClient, complaints: Complaints, topics: Topics, device: str) -> None:
        self._client = client
        self._complaints = complaints
        self._topics = topics
        self._device = device

    async def publish(
        self, *levels: str, payload: bytes, retain: bool = False, expiry_s: int | None = None
    ) -> bool:
        """Return whether the broker took it."""
        topic = self._topics.up(self._device, *levels)
        try:
            await self._client.publish(Message(topic, payload, retain, expiry_s))
        except UnavailableError:
            return False
        except EdgeAgentError as error:
            self._complaints.tell(str(error))
            return False
        return True


class StatusReports:
    """Tells `status` and `reported` when they change, and after each connection."""

    def __init__(self, publisher: Publisher, report: Callable[[], Reported], counts_interval_s: float) -> None:
        self._publisher = publisher
        self._report = report
        self._counts_interval_s = counts_interval_s
        self._told: Reported | None = None
        self._told_s = 0.0
        self._is_born = False

    def came_up(self) -> None:
        """Tell everything again: the broker may have forgotten it."""
        self._told, self._is_born = None, False

    async def step(self) -> Reported:
        """Tell what has changed; return the report as it is."""
        if not self._is_born:
            self._is_born = await self._publisher.publish("status", payload=b"online", retain=True)
        now = self._report()
        if self._is_born and self._is_due(now):
            # A report that the broker refuses is not offered again until it changes.
            self._told, self._told_s = now, time.monotonic()
            await self._publisher.publish("reported", payload=msgspec.json.encode(now), retain=True)
        return now

    def _is_due(self, now: Reported) -> bool:
        if self._told is None or _settled(now) != _settled(self._told):
            return True
        age_s = time.monotonic() - self._told_s
        if now.sync.step != self._told.sync.step and (age_s >= STEP_INTERVAL_S or _is_far(now, self._told)):
            return True
        return now != self._told and age_s >= self._counts_interval_s


def _settled(report: Reported) -> Reported:
    """Return the report without what changes all the time."""
    versions = tuple(dataclasses.replace(version, requests=0, errors=0) for version in report.versions)
    bake = None if report.bake is None else dataclasses.replace(report.bake, left_s=0.0, versions=())
    sync = dataclasses.replace(report.sync, step=None)
    return dataclasses.replace(report, versions=versions, sync=sync, bake=bake)


def _is_far(now: Reported, told: Reported) -> bool:
    """Say whether a download has begun, or come much further than was told."""
    step, before = now.sync.step, told.sync.step
    if step is None or not step.total_bytes:
        return False
    if before is None or not before.total_bytes:
        return True
    return step.done_bytes - before.done_bytes >= STEP_SHARE * step.total_bytes


class MetricsReports:
    """Tells the latest metrics; `latest` is what serving told last."""

    def __init__(self, publisher: Publisher, interval_s: float, outbox_length: Callable[[], int]) -> None:
        self._publisher = publisher
        self._expiry_s = max(1, round(interval_s * 10))
        self._outbox_length = outbox_length
        self._told: MetricsMessage | None = None
        self.latest: MetricsMessage | None = None

    def came_up(self) -> None:
        """Tell the metrics again."""
        self._told = None

    async def step(self) -> None:
        """Tell the metrics if they changed."""
        if self.latest is None:
            return
        metrics = dataclasses.replace(self.latest, outbox_events=self._outbox_length())
        if metrics == self._told:
            return
        payload = msgspec.json.encode(metrics)
        if len(payload) > PAYLOAD_LIMIT_BYTES:
            versions = tuple(dataclasses.replace(version, latency_s={}) for version in metrics.versions)
            payload = msgspec.json.encode(dataclasses.replace(metrics, versions=versions))
        if await self._publisher.publish("metrics", payload=payload, expiry_s=self._expiry_s):
            self._told = metrics


class AbReports:
    """Tells the sums of the experiments that changed: outcomes as serving stored them, and exposures."""

    def __init__(self, publisher: Publisher, journal: Journal, exposures: Exposures, outcomes_db: Path) -> None:
        self._publisher = publisher
        self._journal = journal
        self._exposures = exposures
        self._path = outcomes_db
        self._mark = Mark()
        self._sums: dict[_EpochKey, EpochSums] = {}
        self._told: dict[_EpochKey, int] = {}
        self._parts: dict[_EpochKey, int] = {}
        self._all_told_s = time.monotonic()

    def came_up(self) -> None:
        """Tell all sums again."""
        self._told.clear()
        self._all_told_s = time.monotonic()

    async def step(self) -> None:
        """Store the exposures, then tell the sums that changed. Raises StorageError."""
        if time.monotonic() - self._all_told_s >= RETELL_INTERVAL_S:
            self.came_up()
        counts = self.store()
        for key in sorted(set(self._sums) | set(counts)):
            sums, exposures = self._sums.get(key), counts.get(key, {})
            # Each of the two only grows, so that this grows with either and never falls. Outcomes weigh
            # more, since exposures begin again with a new events database; receivers take 63 bits.
            revision = ((sums.revision if sums is not None else 0) << 24) + sum(exposures.values())
            if self._told.get(key) == revision:
                continue
            database, model, experiment, epoch = key
            message = AbMessage(database, revision, model, experiment, epoch, exposures, ())
            if await self._tell(key, message, sums.sums if sums is not None else ()):
                self._told[key] = revision

    def store(self) -> dict[_EpochKey, dict[str, int]]:
        """Read the outcomes and store the exposures; return these by epoch and arm. Raises StorageError."""
        reading = read_sums(self._path, self._mark)
        if reading.mark.database != self._mark.database:
            self._sums.clear()
        self._mark = reading.mark
        for epoch in reading.epochs:
            self._sums[reading.mark.database, epoch.model, epoch.experiment, epoch.epoch] = epoch
        self._exposures.collect()
        db = self._journal.db
        if db is None:
            return {}
        self._exposures.store(db, reading.mark.database or db.epoch)
        found: dict[_EpochKey, dict[str, int]] = {}
        for key, count in db.exposures().items():
            found.setdefault((key.database, key.model, key.experiment, key.epoch), {})[key.arm] = count
        return found

    async def _tell(self, key: _EpochKey, message: AbMessage, rows: tuple[ArmSums, ...]) -> bool:
        parts = list(split(rows, PAYLOAD_LIMIT_BYTES - len(msgspec.json.encode(message)) - 100))
        # A part that was told once is told again even if it is empty now, else its old content would stay.
        parts += [()] * (self._parts.get(key, 1) - len(parts))
        self._parts[key] = len(parts)
        for number, part in enumerate(parts):
            exposures = message.exposures if number == 0 else {}
            told = dataclasses.replace(message, exposures=exposures, sums=part, part=number)
            if not await self._publisher.publish("ab", message.experiment, payload=msgspec.json.encode(told)):
                return False
        return True


def split(rows: tuple[ArmSums, ...], limit_bytes: int) -> Iterator[tuple[ArmSums, ...]]:
    """Yield the rows in order, in at least one part, each of at most so many bytes as JSON."""
    part: list[ArmSums] = []
    size = 0
    for row in rows:
        row_bytes = len(msgspec.json.encode(row)) + 1
        if part and size + row_bytes > limit_bytes:
            yield tuple(part)
            part, size = [], 0
        part.append(row)
        size += row_bytes
    yield tuple(part)


async def repeat(step: Callable[[], Awaitable[object]], interval_s: float, now: asyncio.Event) -> None:
    """Take a step every so many seconds, and at once when the event is set; the disk may refuse one."""
    while True:
        now.clear()
        with contextlib.suppress(StorageError):  # whose consequence the journal reports
            await step()
        try:
            async with asyncio.timeout(interval_s):
                await now.wait()
        except TimeoutError:
            continue
