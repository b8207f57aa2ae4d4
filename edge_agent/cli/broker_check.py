"""What `edge-agent doctor` finds out about the brokers: whether each takes a connection with these settings."""

import asyncio
import dataclasses
import logging
from collections.abc import Iterator
from typing import Final

from edge_agent.cli.checks import Finding
from edge_agent.control import link, local_apps
from edge_agent.control.broker_link import MqttClient
from edge_agent.control.mqtt import BrokerOptions, Message
from edge_agent.documents.settings import Settings

TIMEOUT_S: Final = 10.0


def brokers(settings: Settings) -> Iterator[Finding]:
    """Whether the fleet's broker and that of local apps answer; nothing where none is set."""
    device = settings.device.id
    if settings.mqtt.url is not None:
        yield broker("mqtt.url", link.broker_options(settings.mqtt, device, Message("", b"")))
    if settings.local_mqtt.url is not None:
        yield broker("local_mqtt.url", local_apps.broker_options(settings.local_mqtt, device))


def broker(setting: str, options: BrokerOptions) -> Finding:
    """Connect once under another client id, so that the agent's own connection is left alone."""
    logging.getLogger("edge_agent.control.broker_link").setLevel(logging.ERROR)
    trial = dataclasses.replace(options, client_id=f"{options.client_id}-doctor", session_expiry_s=0, will=None)
    reason = asyncio.run(_try(trial))
    if reason is not None:
        return Finding("mqtt", "fail", f"{options.address} ({setting}): {reason}.")
    return Finding("mqtt", "ok", f"{options.address} takes a connection")


async def _try(options: BrokerOptions) -> str | None:
    """Return why there is no connection, or None if there is one."""
    client = MqttClient(options, receive=lambda _: None, came_up=lambda: None, complain=lambda _: None)
    running = asyncio.create_task(client.run(), name="broker check")
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await client.wait_up()
    except TimeoutError:
        return client.status.reason
    else:
        await client.stop()
        return None
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
