"""What can be wrong with the settings of brokers although each value by itself has the right type."""

import re
from collections.abc import Iterator
from typing import Final

from edge_agent.documents.errors import SettingsError
from edge_agent.documents.mqtt_url import broker_address
from edge_agent.documents.settings import LocalMqttSettings, MqttSettings, Settings
from edge_agent.documents.topics import LEVEL, is_filter, matches

_LEVELS: Final = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*")
_MODEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")

Problem = tuple[str, str, str]
"""Section, key, and the rest of a sentence that begins with the two."""


def broker_problems(settings: Settings) -> Iterator[Problem]:
    """Yield what is wrong with `mqtt` and `local_mqtt`."""
    for section, values in (("mqtt", settings.mqtt), ("local_mqtt", settings.local_mqtt)):
        yield from _connection_problems(section, values)
    if not _LEVELS.fullmatch(settings.mqtt.prefix):
        yield "mqtt", "prefix", "must be topic levels of letters, digits, '.', '-' and '_', separated by '/'."
    if not LEVEL.fullmatch(settings.mqtt.fleet):
        yield "mqtt", "fleet", "must be 1 to 64 of letters, digits, '-' and '_'."
    yield from _local_problems(settings.local_mqtt)


def _connection_problems(section: str, values: MqttSettings | LocalMqttSettings) -> Iterator[Problem]:
    if values.url is not None:
        try:
            broker_address(values.url)
        except SettingsError as error:
            yield section, "url", f"is wrong: {error}"
    if values.client_key is not None and values.client_certificate is None:
        yield section, "client_key", f"needs {section}.client_certificate; set both."


def _local_problems(local: LocalMqttSettings) -> Iterator[Problem]:
    if not _LEVELS.fullmatch(local.topic):
        yield (
            "local_mqtt",
            "topic",
            "must be topic levels of letters, digits, '.', '-' and '_', separated by '/'.",
        )
    for binding in local.bindings:
        if not is_filter(binding.filter):
            yield "local_mqtt", "bindings", f"has '{binding.filter}', which is no topic filter."
        if not _MODEL.fullmatch(binding.model):
            yield "local_mqtt", "bindings", f"has '{binding.model}', which is no name of a model."
        if not is_filter(binding.result) or set(binding.result) & set("+#"):
            yield "local_mqtt", "bindings", f"has '{binding.result}', which is no topic without wildcards."
        elif any(matches(other.filter, binding.result) for other in local.bindings):
            yield "local_mqtt", "bindings", f"would take its own answers on '{binding.result}' for requests."
