"""The AsyncAPI document of everything that goes over MQTT: `python -m edge_agent.documents.asyncapi FILE`.

Written from the agent's side: it sends what is under `up` and receives what is under `down`. Source:
https://www.asyncapi.com/docs/reference/specification/v3.0.0 and its MQTT bindings 0.2.0.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import TypeAdapter

from edge_agent.documents import messages, schemas
from edge_agent.documents.settings import LocalMqttSettings, MqttSettings
from edge_agent.documents.topics import Topics

PARAMETERS: Final = {
    "fleet": "The setting `mqtt.fleet`.",
    "device": "The setting `device.id`, which is also the default user name at the broker.",
    "type": "What kind of event it is, the field `event.type` of the payload.",
    "experiment": "The name of the experiment; the model's where there is none, with epoch 0.",
    "id": "What the sender of the command chose in its Response Topic; up to 8 levels.",
    "verb": "`sync`, `snapshot` or `loglevel`.",
    "group": "The group of devices, from the signed `deployments/groups.json`.",
    "model": "The name of a model.",
}
"""What stands in the braces of an address."""

_OBJECT: Final = {"type": "object"}
_TENSORS: Final = "The JSON body of the Open Inference Protocol v2"


@dataclass(frozen=True, slots=True)
class Channel:
    """One kind of topic, and what goes over it."""

    name: str
    address: str
    action: Literal["send", "receive"]
    summary: str
    payload: type[Any] | dict[str, Any]
    """A message document, or a JSON Schema."""
    retain: bool = False
    content_type: str = "application/json"


def channels() -> tuple[Channel, ...]:
    """Return every kind of topic, with the default prefixes."""
    topics, device = Topics(MqttSettings().prefix, "{fleet}"), "{device}"
    return (
        Channel(
            "status",
            topics.up(device, "status"),
            "send",
            "Whether the device is connected; `offline` is also its last will, told after a delay.",
            {"type": "string", "enum": ["online", "offline"]},
            retain=True,
            content_type="text/plain",
        ),
        Channel(
            "reported",
            topics.up(device, "reported"),
            "send",
            "What really runs; told when it changes, and after each connection.",
            messages.Reported,
            retain=True,
        ),
        Channel(
            "event",
            topics.up(device, "event", "{type}"),
            "send",
            "An audited event; in order, until the broker acknowledges it, so that it may be seen twice.",
            messages.EventMessage,
        ),
        Channel(
            "metrics",
            topics.up(device, "metrics"),
            "send",
            "Cumulative counters and sketches; with an expiry of ten intervals.",
            messages.MetricsMessage,
        ),
        Channel(
            "ab",
            topics.up(device, "ab", "{experiment}"),
            "send",
            "Cumulative sums of outcomes, told when they change, after each connection and every 10 minutes.",
            messages.AbMessage,
        ),
        Channel(
            "reply",
            topics.up(device, "res", "{id}"),
            "send",
            "The answer to a command that had a Response Topic: `result`, or `error` in one sentence.",
            {"type": "object", "properties": {"result": {}, "error": {"type": "string"}}},
        ),
        Channel(
            "command",
            topics.down(device, "cmd", "{verb}"),
            "receive",
            "A command and its arguments; refused with an event if retained.",
            _OBJECT,
        ),
        Channel(
            "desired",
            topics.desired("{group}"),
            "receive",
            "The hint to look at the store; what runs still comes from signed documents alone.",
            messages.DesiredHint,
            retain=True,
        ),
        *_local_channels(LocalMqttSettings().topic),
    )


def document() -> dict[str, Any]:
    """Return the AsyncAPI document."""
    found = channels()
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Edge Agent over MQTT",
            "version": "1",
            "description": "Topics and payloads. What goes to the fleet has at most 100 KB; all with QoS 1.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {channel.name: _channel(channel) for channel in found},
        "operations": {channel.name: _operation(channel) for channel in found},
        "components": {"schemas": _schemas(found)},
    }


def render() -> str:
    """Return the document as the text of a file, the same for the same code."""
    return json.dumps(document(), indent=2) + "\n"


def _local_channels(topic: str) -> tuple[Channel, ...]:
    return (
        Channel(
            "infer",
            f"{topic}/infer/{{model}}",
            "receive",
            f"A local app's request. {_TENSORS}; also by MQTT 3.1.1.",
            _OBJECT,
        ),
        Channel(
            "result",
            f"{topic}/result/{{model}}",
            "send",
            f"The answer, unless the request named a Response Topic. {_TENSORS}, or `error`; `id` is echoed.",
            _OBJECT,
        ),
        Channel(
            "outcomes",
            f"{topic}/outcomes/{{model}}",
            "receive",
            "Outcomes of predictions, the JSON body of `POST /v2/models/<model>/outcomes`.",
            _OBJECT,
        ),
    )


def _channel(channel: Channel) -> dict[str, Any]:
    names = [name for name in PARAMETERS if f"{{{name}}}" in channel.address]
    payload = (
        channel.payload
        if isinstance(channel.payload, dict)
        else {"$ref": f"#/components/schemas/{channel.payload.__name__}"}
    )
    message = {"contentType": channel.content_type, "summary": channel.summary, "payload": payload}
    return {
        "address": channel.address,
        "parameters": {name: {"description": PARAMETERS[name]} for name in names},
        "messages": {channel.name: message},
    }


def _operation(channel: Channel) -> dict[str, Any]:
    return {
        "action": channel.action,
        "channel": {"$ref": f"#/channels/{channel.name}"},
        "bindings": {"mqtt": {"qos": 1, "retain": channel.retain, "bindingVersion": "0.2.0"}},
    }


def _schemas(found: tuple[Channel, ...]) -> dict[str, Any]:
    adapters = [
        (channel.name, "validation", TypeAdapter(channel.payload))
        for channel in found
        if not isinstance(channel.payload, dict)
    ]
    _, generated = TypeAdapter.json_schemas(adapters, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    parts: dict[str, Any] = generated["$defs"]
    for part in parts.values():
        schemas.describe(part)
    return dict(sorted(parts.items()))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m edge_agent.documents.asyncapi FILE")
    Path(sys.argv[1]).write_text(render(), encoding="utf-8")
