"""The metrics are documented, and examples and documentation name none that is not there."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from edge_agent.documents.messages import MetricsMessage, VersionCounters
from edge_agent.telemetry.counters import Counters, LinkState, ServingInfo

CHECKOUT = Path(__file__).resolve().parents[3]
DOCUMENTED = (CHECKOUT / "docs/metrics.md").read_text()
EXAMPLES = CHECKOUT / "examples"


def families() -> dict[str, set[str]]:
    """Return the names of all metrics, each with the labels of its samples."""
    counters = Counters()
    counters.link = LinkState(up=True, outbox_events=0)
    version = counters.of("m", "1")
    version.observe(0.1)
    version.note_arm("1")
    version.fail("request")
    info = ServingInfo("0.1", "p", 0.0, (("m", "1", "onnx", "fp32"),))
    text = counters.render(info).decode()
    found: dict[str, set[str]] = {name: set() for name in re.findall(r"^# TYPE (\w+) ", text, re.M)}
    for name, labels in re.findall(r"^(\w+)\{(.*)\} ", text, re.M):
        family = name if name in found else re.sub(r"_(bucket|sum|count)$", "", name)
        found[family] |= set(re.findall(r'(\w+)="', labels))
    return found


def test_every_metric_is_documented_with_its_labels() -> None:
    rows = dict(re.findall(r"^\| `(edge_agent_\w+)` \| \w+ \| (.*?) \|", DOCUMENTED, re.M))
    documented = {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows.items()}
    assert documented == families()


def test_every_field_of_the_metrics_message_is_documented() -> None:
    _, _, section = DOCUMENTED.partition("## Over MQTT")
    for field in MetricsMessage.__dataclass_fields__:
        assert field == "versions" or f"`{field}`" in section, field
    for field in VersionCounters.__dataclass_fields__:
        assert re.search(rf"`(versions\[\])?\.{field}`", section), field


@pytest.mark.parametrize("name", ["prometheus.yml", "alerts.yml"])
def test_the_prometheus_files_can_be_read(name: str) -> None:
    assert yaml.safe_load((EXAMPLES / name).read_text())


def test_alerts_are_about_metrics_that_exist() -> None:
    (group,) = yaml.safe_load((EXAMPLES / "alerts.yml").read_text())["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule["annotations"]["summary"].endswith(".")
        assert rule["expr"].count("(") == rule["expr"].count(")")
        for name in re.findall(r"edge_agent_\w+", rule["expr"]):
            assert name.removesuffix("_bucket") in families()


def test_telegraf_reads_fields_that_exist() -> None:
    config = tomllib.loads((EXAMPLES / "telegraf.conf").read_text())
    metrics, status = config["inputs"]["mqtt_consumer"]
    assert [metrics["topics"], status["topics"]] == [["edge/v1/+/+/up/metrics"], ["edge/v1/+/+/up/status"]]
    versions, device = metrics["json_v2"]
    (found,) = versions["object"]
    assert {*found["tags"], *found["excluded_keys"]} <= set(VersionCounters.__dataclass_fields__)
    assert {field["path"] for field in device["field"]} <= set(MetricsMessage.__dataclass_fields__)
