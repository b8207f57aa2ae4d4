import io
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.cli.output import Output, Progress, duration, size, table
from edge_agent.cli.report import event_lines, sync_sentence, version_lines
from edge_agent.cli.status import ProcessStatus, SocketStatus, Status, lines
from edge_agent.documents.messages import (
    BakeReport,
    BakingVersion,
    Event,
    Reported,
    SyncReport,
    SyncStep,
    VersionReport,
    Wait,
)

PLAIN = Output(as_json=False, stream=io.StringIO())
SERVING = VersionReport("magika", "v2", "serving", "onnx", "int8", "ab" * 32, weight=1.0, requests=12)
OTHER = VersionReport("magika", "v1", "serving", "onnx", "fp32", "cd" * 32, weight=3.0)
LEFT_OUT = VersionReport(
    "kws", "v9", "left_out", "tflite", "int8", "ef" * 32, crashes=3, reason="It crashed 3 times."
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_status_tells_what_runs_and_what_is_wrong() -> None:
    reported = Reported(
        "cam-3", "0.1.0", "line-1", 7, "abcd", 8, (SERVING, OTHER, LEFT_OUT),
        SyncReport("failed", 100.0, "The store did not answer.", 4000.0), ("The disk is nearly full.",),
    )  # fmt: skip
    reported = replace(reported, waits=(Wait("window", 500.0, "Serial 8 waits for the window."),))
    events = (Event("crashed", 50.0, "kws v9 crashed."), Event("rolled_back", 40.0, "Back.", actor="uid:1000"))
    status = Status(
        reported, ProcessStatus(1, 93784.0, None, 2), SocketStatus("/run/i", "127.0.0.1:8000"), events
    )
    text = "\n".join(lines(status, PLAIN, now_s=400.0))
    assert "cam-3, group line-1" in text
    assert "up 1 d 2 h; serving is down, restarted 2 times" in text
    assert "abcd, serial 7; serial 8 is not active" in text
    assert "failed, 5 min ago: The store did not answer.; trusted for 1 h more" in text
    assert "Waits     Serial 8 waits for the window." in text
    assert "http://127.0.0.1:8000" in text
    assert "The disk is nearly full." in text
    assert text.index("Back. (by uid:1000)") < text.index("kws v9 crashed.")


def test_status_tells_how_the_trial_goes() -> None:
    versions = (
        BakingVersion("kws", "v9", 1234, 0.0125, 0.05, 0.0042, 0.015),
        BakingVersion("ocr", "v2", 7, 0.0, None, None, None),
    )
    reported = Reported(
        "cam-3", "0.1.0", "line-1", 7, "abcd", bake=BakeReport(7, 180.0, versions), held="It failed."
    )
    shown = list(lines(Status(reported, ProcessStatus(1, 1.0, 2, 0), SocketStatus("/i")), PLAIN, now_s=400.0))
    assert any(line.startswith("Serial 7 is on trial until ") and line.endswith("3 min more") for line in shown)
    assert "  kws v9: 1234 requests, error rate 1.25 % (limit 5 %), p99 4.2 ms (limit 15 ms)" in shown
    assert "  ocr v2: 7 requests, error rate 0 % (no limit)" in shown


def test_versions_show_their_share_of_traffic_and_why_they_do_not_serve() -> None:
    shown = list(version_lines((SERVING, OTHER, LEFT_OUT), PLAIN))
    assert shown[1].split() == ["magika", "v2", "serving", "onnx", "int8", "25%", "12", "0", "0", "-", "-"]
    assert shown[2].split()[5] == "75%"
    assert shown[3].split()[5] == "-"
    assert shown[4] == "  kws v9: It crashed 3 times."
    assert list(version_lines((), PLAIN)) == ["No model is on this device."]


@pytest.mark.parametrize(
    ("sync", "says"),
    [
        (SyncReport("never"), "has not looked at the store yet"),
        (SyncReport("off"), "off: no store is set"),
        (SyncReport("running"), "looking at the store now"),
        (SyncReport("ok", 90.0, None, 50.0), "ok, 10 s ago; expired 50 s ago"),
    ],
)
def test_sync_sentences(sync: SyncReport, says: str) -> None:
    assert sync_sentence(sync, 100.0) == says


def test_colours_are_for_terminals_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert Output(False, Terminal()).style("x", "red") == "\x1b[31mx\x1b[0m"
    assert Output(False, io.StringIO()).style("x", "red") == "x"
    monkeypatch.setenv("NO_COLOR", "1")
    assert Output(False, Terminal()).style("x", "red") == "x"


def test_coloured_states_do_not_shift_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    coloured = list(version_lines((SERVING, LEFT_OUT), Output(False, Terminal())))
    plain = list(version_lines((SERVING, LEFT_OUT), PLAIN))
    assert coloured[1] == plain[1].replace("serving", "\x1b[32mserving\x1b[0m")
    assert "\x1b[31mleft_out\x1b[0m" in coloured[2]


def test_progress_is_for_terminals_alone() -> None:
    terminal, pipe = Terminal(), io.StringIO()
    for stream in (terminal, pipe):
        progress = Progress(stream=stream)
        progress.update("downloading", 1024, 3 * 2**20)
        progress.end()
    assert terminal.getvalue() == "\r\x1b[Kdownloading  1.0 KiB of 3.0 MiB\r\x1b[K"
    assert pipe.getvalue() == ""


def test_events_are_told_oldest_first() -> None:
    told = list(event_lines([Event("stopped", 2.0, "b"), Event("started", 1.0, "a")], PLAIN))
    assert [line[-1] for line in told] == ["a", "b"]


@given(st.integers(0, 2**60))
def test_sizes_are_short(count: int) -> None:
    assert len(size(count)) <= 14
    assert size(count).split()[1] in ("B", "KiB", "MiB", "GiB", "TiB")


@given(st.floats(-1e6, 1e9))
def test_durations_have_two_units_at_most(seconds: float) -> None:
    assert len(duration(seconds).split()) in (2, 4)


def test_a_table_is_as_wide_as_its_cells() -> None:
    assert table(("A", "BB"), [("long", "x")]) == ["A     BB", "long  x"]


def test_a_sync_that_runs_tells_how_far_it_is() -> None:
    step = SyncStep("Downloading", 2**20, 4 * 2**20, 2**19, 6.0)
    says = "looking at the store now: downloading, 1.0 MiB of 4.0 MiB, 512.0 KiB/s, 6 s left"
    assert sync_sentence(SyncReport("running", 90.0, "The store did not answer.", step=step), 100.0) == says
    begun = SyncReport("running", step=SyncStep("Checking the store's signatures"))
    assert sync_sentence(begun, 100.0) == "looking at the store now: checking the store's signatures"
    paused = SyncReport("paused", 90.0, "The budget is used up.")
    assert sync_sentence(paused, 100.0) == "paused, 10 s ago: The budget is used up."
