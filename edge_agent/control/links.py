"""The agent's links to brokers: the fleet's, and that of local apps. Without either, paho is never imported."""

import logging
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from edge_agent.control.complaints import Complaints
from edge_agent.control.deployer import Deployer
from edge_agent.control.durable_state import DurableState
from edge_agent.control.exposures import Exposures
from edge_agent.control.journal import Journal
from edge_agent.control.supervise import Notice, ServingEnded, ServingProcess
from edge_agent.documents import ipc
from edge_agent.documents.errors import EdgeAgentError
from edge_agent.documents.messages import Reported
from edge_agent.documents.settings import Settings
from edge_agent.store.layout import runtime_layout

if TYPE_CHECKING:
    from edge_agent.control.broker_link import LinkStatus
    from edge_agent.control.link import FleetLink
    from edge_agent.control.local_apps import LocalApps

log = logging.getLogger(__name__)


class Links:
    """Those links that the settings ask for."""

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        exposures: Exposures,
        outcomes_db: Path,
        deployer: Deployer,
        state: DurableState,
        serving: ServingProcess,
        report: Callable[[], Reported],
    ) -> None:
        self._journal = journal
        self._exposures = exposures
        self._deployer = deployer
        self._state = state
        self._serving = serving
        self._report = report
        self.fleet: FleetLink | None = None
        if settings.mqtt.url is not None:
            self.fleet = self._fleet_link(settings, outcomes_db)
        self.apps: LocalApps | None = None
        if settings.local_mqtt.url is not None:
            self.apps = self._local_apps(settings)

    def works(self) -> dict[str, Coroutine[Any, Any, None]]:
        """Return what has to run for the links, by name."""
        works = {}
        if self.fleet is not None:
            works["fleet link"] = self.fleet.run()
        if self.apps is not None:
            works["local apps"] = self.apps.run()
        return works

    def notice(self, notice: Notice) -> None:
        """Take what serving tells."""
        if self.fleet is None:
            return
        if isinstance(notice, ipc.Metrics):
            self.fleet.take_metrics(notice.metrics)
        elif isinstance(notice, ipc.Applied | ServingEnded):
            self._exposures.collect()

    def status(self) -> dict[str, Any]:
        """Say how the links are, for the admin socket."""
        off = {"state": "off"}
        fleet, apps = self.fleet, self.apps
        return {
            "link": off if fleet is None else {**_status(fleet.status), "outbox_events": fleet.outbox_events},
            "local_link": off if apps is None else _status(apps.status),
        }

    async def stop(self) -> None:
        """Say farewell and disconnect; call before cancelling the works."""
        if self.apps is not None:
            await self.apps.stop()
        if self.fleet is not None:
            await self.fleet.stop()

    def close(self) -> None:
        """Store what was counted last; call once serving has ended."""
        if self.fleet is not None:
            self.fleet.close()

    # --- what the fleet may ask ------------------------------------------------------------------------------

    def _fleet_link(self, settings: Settings, outcomes_db: Path) -> "FleetLink":
        from edge_agent.control.link import FleetLink

        return FleetLink(
            settings.mqtt,
            settings.device.id,
            self._journal,
            self._exposures,
            outcomes_db,
            report=self._report,
            commands={"sync": self._sync, "snapshot": self._snapshot, "loglevel": self._log_level},
            newest_serial=self._newest_serial,
            look=self._look,
            show=self._serving.tell_link,
        )

    def _local_apps(self, settings: Settings) -> "LocalApps":
        from edge_agent.control.local_apps import LocalApps

        return LocalApps(
            settings.local_mqtt,
            settings.device.id,
            runtime_layout(settings.paths).infer_socket,
            Complaints(self._journal),
            settings.mqtt.prefix,
        )

    async def _sync(self, _arguments: Mapping[str, Any]) -> Any:
        outcome = self._deployer.ask_sync(force=False, folder=None, progress=lambda _: None)
        return msgspec.to_builtins(await outcome)

    async def _snapshot(self, _arguments: Mapping[str, Any]) -> Any:
        return msgspec.to_builtins(self._report())

    async def _log_level(self, arguments: Mapping[str, Any]) -> Any:
        level = msgspec.convert(arguments, _LogLevel).level
        logging.getLogger().setLevel(level.upper())
        return {"level": level}

    def _newest_serial(self) -> int:
        state = self._state.value
        return max(state.current.serial, state.target.serial if state.target is not None else 0)

    def _look(self) -> None:
        try:
            self._deployer.ask_sync(force=False, folder=None, progress=lambda _: None)
        except EdgeAgentError as error:
            log.warning("A hint was of no use: %s", error)


class _LogLevel(msgspec.Struct, frozen=True):
    level: Literal["debug", "info", "warning", "error"]


def _status(status: "LinkStatus") -> dict[str, Any]:
    return {"state": "up" if status.up else "down", "since_s": status.since_s, "message": status.reason}
