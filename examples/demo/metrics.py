"""The agent's own counts, from its /metrics."""

import re
from pathlib import Path

import httpx


def read_metric(socket: Path, name: str) -> list[tuple[dict[str, str], float]]:
    """Return labels and value of each sample of a metric."""
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket))) as client:
        text = client.get("http://localhost/metrics").text
    samples = re.findall(rf"^{name}\{{(.*)\}} (\S+)$", text, re.M)
    return [(dict(re.findall(r'(\w+)="([^"]*)"', labels)), float(value)) for labels, value in samples]
