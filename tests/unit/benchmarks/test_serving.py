"""The pure parts of the serving benchmark: figures, what load generators print, the table."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.__main__ import chosen
from benchmarks.serving.__main__ import parse
from benchmarks.serving.exchanges import post
from benchmarks.serving.figures import growth, percentile
from benchmarks.serving.generators import parts
from benchmarks.serving.load_output import LoadError, h2load, seconds, wrk
from benchmarks.serving.peers.triton import add_sub, write
from benchmarks.serving.plot import draw, panels
from benchmarks.serving.process import magika_request
from benchmarks.serving.rows import Row, as_json, from_json, ratio, text
from benchmarks.serving.soak import report

WRK = """Running 1s test @ http://127.0.0.1:8000/v2
  1 threads and 16 connections
  Latency Distribution
     50%  213.00us
     75%    1.02ms
     90%    1.10ms
     99%    2.50s
  66885 requests in 1.00s, 30.10MB read
  Socket errors: connect 0, read 2, write 0, timeout 1
  Non-2xx or 3xx responses: 4
Requests/sec:  66885.50
Transfer/sec:     30.10MB
"""
H2LOAD = """finished in 1.00s, 4743.00 req/s, 1.20MB/s
requests: 4743 total, 4775 started, 4743 done, 4740 succeeded, 3 failed, 0 errored, 0 timeout
status codes: 4740 2xx, 0 3xx, 3 4xx, 0 5xx
"""


def test_what_wrk_prints() -> None:
    load = wrk(WRK)
    assert (load.requests, load.per_s, load.failures) == (66885, 66885.5, 7)
    assert load.latency_s == {50: pytest.approx(213e-6), 75: 1.02e-3, 90: 1.1e-3, 99: 2.5}


def test_what_h2load_prints() -> None:
    load = h2load(H2LOAD)
    assert (load.requests, load.per_s, load.failures) == (4743, 4743.0, 3)


@pytest.mark.parametrize("read", [wrk, h2load])
def test_what_is_no_figure_is_an_error(read: object) -> None:
    with pytest.raises(LoadError, match="said nothing of the kind"):
        read("connection refused")  # type: ignore[operator]
    with pytest.raises(LoadError, match="is no duration"):
        seconds("1 day")


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1))
def test_a_percentile_is_a_value_that_its_share_does_not_exceed(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9


def test_growth_is_that_of_the_second_half() -> None:
    assert growth([50, 90, 100, 100, 100, 100, 101, 102]) == pytest.approx(1.5)
    with pytest.raises(ValueError, match="too few"):
        growth([1, 2, 3])


def test_a_row_says_whether_its_target_is_met() -> None:
    assert ratio("x", 20.0, 40.0, "Triton", "µs", 0.5).met
    assert not ratio("x", 20.0, 40.0, "Triton", "1/s", 2, is_minimum=True).met
    assert Row("x", 1.0, "s").met is None
    assert Row("x", None, "s", 1.0).met is False
    lines = list(text([ratio("a name", 20.0, 40.0, "Triton", "µs", 0.4)]))
    assert lines[0].split() == ["a", "name", "0.50", "x", "Triton's", "<=", "0.4", "MISSED"]
    assert "edge-agent 20.0, Triton 40.0 µs" in lines[1]
    assert as_json(Row("x", 1.0, "s", 2.0))["met"] is True


def test_a_row_survives_its_way_between_processes() -> None:
    rows = [
        Row("x", 1.5, "x Triton's", 2, True, {"edge-agent": 3.0, "Triton": 2.0}, "1/s", "a note"),
        Row("y", None, "µs", note="not available"),
    ]
    assert [from_json(json.loads(json.dumps(as_json(row)))) for row in rows] == rows


def test_generators_are_given_what_a_request_says() -> None:
    request = post("/v2/models/m/infer", b"\r\n\r\n{}", "Inference-Header-Content-Length: 2\r\n")
    path, headers, body = parts(request)
    assert (path, body) == ("/v2/models/m/infer", b"\r\n\r\n{}")
    assert headers == {"Content-Type": "application/json", "Inference-Header-Content-Length": "2"}


def test_the_picture_compares_servers_and_leaves_out_other_rows() -> None:
    rows = [
        Row(
            "tiny model uncached, JSON: p50",
            0.5,
            "x",
            peers={"edge-agent": 1.0, "Triton": 2.0},
            peers_unit="µs",
        ),
        Row("tiny model uncached: faster than FastAPI", 5, "x", peers={"edge-agent": 1.0, "FastAPI": 5.0}),
        Row("exec to first answer", 1.0, "s", 1.2),
        Row("cached answers a second, 16 connections, Unix socket", 9.0, "1/s"),
    ]
    assert panels(rows) == {
        "tiny model, one request (less is better), µs": {"edge-agent": 1.0, "Triton": 2.0, "FastAPI": 5.0}
    }


def test_the_picture_is_the_same_for_the_same_rows(tmp_path: Path) -> None:
    rows = [Row("cached answer, p50", 0.5, "x", peers={"edge-agent": 1.0, "Triton": 2.0}, peers_unit="µs")]
    for name in ("one.svg", "other.svg"):
        draw(rows, tmp_path / name)
    content = (tmp_path / "one.svg").read_text()
    assert content == (tmp_path / "other.svg").read_text()
    assert "Triton" in content
    draw([], tmp_path / "none.svg")
    assert not (tmp_path / "none.svg").exists()


def test_parts_are_chosen_by_name_and_the_plot_has_a_place() -> None:
    args = parse(["--only", "busy", "process", "--plot", "--soak", "30"])
    assert (args.only, args.soak, args.plot.name) == (["busy", "process"], 30.0, "serving.svg")
    with pytest.raises(SystemExit):
        parse(["--only", "nothing"])


def test_memory_is_measured_by_a_process_that_holds_no_runtime() -> None:
    code = "import sys, benchmarks.serving.process; print({'numpy', 'onnxruntime'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_request_to_magika_has_the_length_that_it_names() -> None:
    _, headers, body = parts(magika_request(is_cached=False))
    size = int(headers["Inference-Header-Content-Length"])
    assert json.loads(body[:size])["parameters"]["cache"] is False
    assert len(body) - size == 4 * 2048


def test_a_soak_that_lost_memory_or_a_request_has_missed_its_targets() -> None:
    calm = report(30, [80, 90, 90, 90, 90, 90, 90, 90], done=1000, failed=0)
    assert [row.met for row in calm] == [True, True]
    leaky = report(30, [80, 81, 82, 83, 84, 85, 86, 87], done=1000, failed=1)
    assert [row.met for row in leaky] == [False, False]


def test_triton_is_told_a_models_tensors(tmp_path: Path) -> None:
    write(tmp_path, "plain", add_sub(is_cached=True))
    config = (tmp_path / "config.pbtxt").read_text()
    assert 'input [ { name: "INPUT1" data_type: TYPE_INT32 dims: [-1, 16] } ]' in config
    assert "response_cache { enable: true }" in config


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["serving"], ["benchmarks.serving.swap", "benchmarks.serving"]),
        (["added"], ["benchmarks.serving.added"]),
        (["footprint", "hint"], ["benchmarks.footprint", "benchmarks.update_hint"]),
    ],
)
def test_a_benchmark_that_is_part_of_another_runs_once(names: list[str], expected: list[str]) -> None:
    assert chosen(names) == expected
    assert "benchmarks.serving" not in chosen([])
