from typing import Any

import msgspec
import pytest

from edge_agent.cli.exposition import parse
from edge_agent.cli.figures import Figures, Look, figures
from edge_agent.cli.status import Status
from edge_agent.cli.top import as_json
from edge_agent.cli.top_lines import lines
from edge_agent.telemetry.counters import Counters, LinkState, ServingInfo

STATUS: dict[str, Any] = {
    "reported": {
        "device": "dev-7",
        "agent_version": "0.1.0",
        "group": "all",
        "serial": 4,
        "plan_id": "p1",
        "versions": [
            {"model": "m", "version": "1", "state": "serving", "engine": "onnx", "precision": "int8",
             "sha256": "", "weight": 3.0, "crashes": 1},
            {"model": "m", "version": "2", "state": "quarantined", "engine": "onnx", "precision": "fp32",
             "sha256": "", "weight": 1.0, "reason": "It crashed."},
        ],
        "sync": {"state": "ok", "finished_s": 100.0},
        "problems": ["The clock is wrong."],
    },
    "process": {"pid": 10, "uptime_s": 90.0, "serving_pid": 11, "restarts": 2},
    "sockets": {"infer": "/run/edge-agent/infer.sock"},
    "link": {"state": "up", "since_s": 1.0},
}  # fmt: skip


def status() -> Status:
    return msgspec.convert(STATUS, Status)


class Serving:
    """The counters of a serving process that is looked at."""

    def __init__(self, start_s: float = 0.0) -> None:
        self.counters = Counters()
        self.start_s = start_s
        self.loaded = (("m", "1", "onnx", "int8"),)

    def answer(self, count: int, duration_s: float = 0.002, version: str = "1", arm: str = "a") -> None:
        found = self.counters.of("m", version)
        for _ in range(count):
            found.observe(duration_s)
            found.note_arm(arm)

    def look(self, time_s: float, said: Status | None = None) -> Look:
        page = self.counters.render(ServingInfo("0.1.0", "p1", self.start_s, self.loaded))
        return Look(time_s, parse(page.decode()), said)


def test_rates_and_quantiles_are_those_of_the_interval() -> None:
    serving = Serving()
    serving.answer(1000, 5.0)
    before = serving.look(100.0)
    serving.answer(150, arm="a")
    serving.answer(50, arm="b")
    one = serving.counters.of("m", "1")
    one.cache_hits, one.cache_misses, one.in_flight = 30, 10, 2
    one.fail("engine")
    found = figures(serving.look(102.0), before)
    (version,) = found.versions
    assert (version.requests, version.requests_per_s, version.errors_per_s) == (1200, 100.0, 0.5)
    assert version.arms_per_s == {"a": 75.0, "b": 25.0}
    assert version.hit_rate == 0.75
    assert version.p50_ms == pytest.approx(1.75)
    assert version.p99_ms == pytest.approx(2.485)
    assert (found.requests_per_s, found.in_flight, found.interval_s) == (100.0, 2, 2.0)


def test_the_first_look_has_no_rates() -> None:
    serving = Serving()
    serving.answer(10)
    found = figures(serving.look(100.0), None)
    assert found.requests_per_s is None
    assert found.interval_s is None
    assert found.versions[0].requests == 10
    assert (found.versions[0].p99_ms, found.versions[0].requests_per_s) == (None, None)


def test_a_serving_process_that_was_started_in_between_counts_from_its_start() -> None:
    before = Serving(0.0)
    before.answer(500)
    after = Serving(108.0)
    after.answer(20)
    found = figures(after.look(110.0), before.look(100.0))
    assert (found.requests_per_s, found.interval_s) == (10.0, 2.0)


def test_one_that_only_did_not_answer_has_no_rates_until_the_next_look() -> None:
    serving = Serving(0.0)
    serving.answer(500)
    gap = Look(100.0, None, None, serving_problem="gone")
    assert figures(serving.look(102.0), gap).requests_per_s is None


def test_the_busiest_version_comes_first_and_one_that_went_stays() -> None:
    serving = Serving()
    serving.loaded = (("m", "1", "onnx", "int8"), ("z", "1", "tflite", "int8"))
    serving.answer(1, version="0")
    before = serving.look(0.0)
    serving.answer(5, version="1")
    found = figures(serving.look(1.0), before)
    assert [(one.model, one.version, one.state) for one in found.versions] == [
        ("m", "1", "serving"), ("m", "0", "gone"), ("z", "1", "serving"),
    ]  # fmt: skip


def test_what_the_supervisor_says_is_joined() -> None:
    serving = Serving()
    serving.counters.link = LinkState(up=True, outbox_events=3)
    found = figures(serving.look(101.0, status()), serving.look(100.0, status()))
    states = {one.version: (one.state, one.traffic, one.crashes) for one in found.versions}
    assert states == {"1": ("serving", 0.75, 1), "2": ("quarantined", None, 0)}
    assert (found.link_up, found.outbox_events) == (True, 3)
    said = text(found)
    for part in (
        "dev-7", "serial 4", "store ok, 1 s ago", "fleet link up, 3 events wait",
        "The clock is wrong.", "m 2: It crashed.", "restarted 2 times",
    ):  # fmt: skip
        assert part in said


def test_without_serving_the_supervisor_is_still_shown() -> None:
    found = figures(Look(100.0, None, status(), serving_problem="Serving is down."), Serving().look(98.0))
    assert [one.version for one in found.versions] == ["1", "2"]
    assert "Serving is down." in text(found)
    assert as_json(found)["serving_problem"] == "Serving is down."
    assert as_json(found)["agent"]["serving_pid"] == 11


def text(found: Figures) -> str:
    return "\n".join(line.text for line in lines(found))


def many() -> Figures:
    serving = Serving()
    serving.loaded = tuple(("model-with-a-long-name", f"2026\x1b[31m{n}", "onnx", "int8") for n in range(60))
    return figures(serving.look(101.0, status()), serving.look(100.0, status()))


@pytest.mark.parametrize("width", [1, 10, 40, 80, 200])
@pytest.mark.parametrize("height", [1, 3, 10, 24, 100])
def test_the_view_fits_every_terminal(width: int, height: int) -> None:
    view = [line.text for line in lines(many(), width, height)]
    assert len(view) <= height
    assert all(len(line) <= width for line in view)
    assert all(line.isprintable() for line in view)


def test_a_small_terminal_says_what_it_leaves_out() -> None:
    view = [line.text for line in lines(many(), 80, 24)]
    assert view[-1].startswith("… ")
    assert view[-1].endswith(" more")
    narrow = next(line.text for line in lines(many(), 60, 24) if "MODEL" in line.text)
    assert "REQ/S" in narrow
    assert "ARMS/S" not in narrow
