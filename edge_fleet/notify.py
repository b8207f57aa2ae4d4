"""Tells the devices of a group that there is something new in the store: the retained hint of the group.

Only a hint, which makes devices look early; what they run comes from the store's signed documents.
"""

from dataclasses import dataclass

import msgspec

from edge_agent.documents.errors import NotFoundError
from edge_agent.documents.messages import DesiredHint
from edge_fleet.broker import publish_retained
from edge_fleet.broker_options import BrokerSettings
from edge_fleet.deploy import read_deployment
from edge_fleet.repository import Contents


@dataclass(frozen=True, slots=True)
class Notified:
    """The hint that was given."""

    group: str
    topic: str
    hint: DesiredHint


def notify(contents: Contents, group: str, settings: BrokerSettings, spread_s: float) -> Notified:
    """Publish the serial of the group's deployment; devices look at the store within `spread_s` seconds.

    Raises NotFoundError if the group has no deployment, and what `publish_retained` raises.
    """
    deployment = read_deployment(contents, group)
    if deployment is None:
        raise NotFoundError(f"Group '{group}' has no deployment: make one with edge-fleet deploy.")
    hint = DesiredHint(serial=deployment.serial, spread_s=spread_s)
    topic = settings.topics.desired(group)
    publish_retained(settings, topic, msgspec.json.encode(hint))
    return Notified(group, topic, hint)
