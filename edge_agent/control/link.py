"""The link to the fleet's broker: puts together what is told and what is asked over it."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from edge_agent.control import reporting
from edge_agent.control.broker_link import LinkStatus, MqttClient
from edge_agent.control.complaints import Complaints
from edge_agent.control.exposures import Exposures
from edge_agent.control.journal import Journal
from edge_agent.control.mqtt import BrokerOptions, Message
from edge_agent.control.outbox import Outbox
from edge_agent.control.remote import Command, Remote
from edge_agent.documents.errors import StorageError
from edge_agent.documents.messages import MetricsMessage, Reported
from edge_agent.documents.mqtt_url import broker_address
from edge_agent.documents.settings import MqttSettings
from edge_agent.documents.topics import Topics

log = logging.getLogger(__name__)

RESTART_S: Final = 10.0
SHOW_INTERVAL_S: Final = 2.0


class FleetLink:
    """Everything between this device and its fleet's broker."""

    def __init__(
        self,
        settings: MqttSettings,
        device: str,
        journal: Journal,
        exposures: Exposures,
        outcomes_db: Path,
        *,
        report: Callable[[], Reported],
        commands: Mapping[str, Command],
        newest_serial: Callable[[], int],
        look: Callable[[], None],
        show: Callable[[bool, int], None],
    ) -> None:
        topics = Topics(settings.prefix, settings.fleet)
        complaints = Complaints(journal)
        self._settings = settings
        self._show = show
        self._farewell = Message(topics.up(device, "status"), b"offline", retain=True)
        self._client = MqttClient(
            broker_options(settings, device, self._farewell),
            receive=lambda message: self._remote.receive(message),
            came_up=self._came_up,
            complain=complaints.tell,
        )
        publisher = reporting.Publisher(self._client, complaints, topics, device)
        self._outbox = Outbox(self._client, journal, complaints, topics, device)
        self._status = reporting.StatusReports(publisher, report, settings.metrics_interval_s)
        self._metrics = reporting.MetricsReports(
            publisher, settings.metrics_interval_s, lambda: self._outbox.length
        )
        self._ab = reporting.AbReports(publisher, journal, exposures, outcomes_db)
        self._remote = Remote(self._client, complaints, topics, device, commands, newest_serial, look)
        self._wakes = {name: asyncio.Event() for name in ("status", "metrics", "ab", "numbers")}

    @property
    def status(self) -> LinkStatus:
        """How the connection is."""
        return self._client.status

    @property
    def outbox_events(self) -> int:
        """Events that the broker has not acknowledged."""
        return self._outbox.length

    def take_metrics(self, metrics: MetricsMessage) -> None:
        """Keep what serving counts, to be told when it is due."""
        self._metrics.latest = metrics

    async def run(self) -> None:
        """Hold the link until cancelled; a fault in it is logged, and the link made anew."""
        while True:
            try:
                await self._run()
            except Exception:
                log.exception("The link to the fleet failed; it is made anew in %g s.", RESTART_S)
                await asyncio.sleep(RESTART_S)

    async def stop(self) -> None:
        """Say that this device is going offline; call before cancelling `run`."""
        self._remote.stop()
        await self._client.stop(self._farewell)

    def close(self) -> None:
        """Store what was counted last."""
        with contextlib.suppress(StorageError):  # whose consequence the journal reports
            self._ab.store()

    async def _run(self) -> None:
        settings, wakes = self._settings, self._wakes
        async with asyncio.TaskGroup() as tasks:
            for name, work in (
                ("connection", self._client.run()),
                ("outbox", self._outbox.run()),
                ("refused events", self._outbox.run_refused()),
                ("status", reporting.repeat(self._tell_status, reporting.LOOK_INTERVAL_S, wakes["status"])),
                (
                    "metrics",
                    reporting.repeat(self._metrics.step, settings.metrics_interval_s, wakes["metrics"]),
                ),
                ("numbers", reporting.repeat(self._show_numbers, SHOW_INTERVAL_S, wakes["numbers"])),
                ("ab", reporting.repeat(self._ab.step, settings.ab_interval_s, wakes["ab"])),
            ):
                tasks.create_task(work, name=f"link {name}")

    async def _show_numbers(self) -> None:
        """Tell serving, whose `/metrics` shows them; again and again, since it may be a new process."""
        self._show(self._client.status.up, self._outbox.length)

    async def _tell_status(self) -> None:
        self._remote.follow((await self._status.step()).group)

    def _came_up(self) -> None:
        for reports in (self._status, self._metrics, self._ab):
            reports.came_up()
        for wake in self._wakes.values():
            wake.set()


def broker_options(settings: MqttSettings, device: str, will: Message) -> BrokerOptions:
    """Return how to connect to the fleet's broker; raises SettingsError for a URL that names none."""
    return BrokerOptions(
        address=broker_address(settings.url or ""),
        client_id=device,
        username=settings.username or device,
        password_file=settings.password_file,
        ca_bundle=settings.ca_bundle,
        client_certificate=settings.client_certificate,
        client_key=settings.client_key,
        keepalive_s=settings.keepalive_s,
        session_expiry_s=settings.session_expiry_s,
        will=will,
        will_delay_s=settings.will_delay_s,
    )
