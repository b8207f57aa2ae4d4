import io
import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest

from converters.checks.metrics import Metric
from converters.commands.show_sweep import show_sweep
from converters.sweep.plot import html, picture, write_plot
from converters.sweep.results import Row, Sweep, arranged, judged
from edge_agent.documents.errors import RequestError

ACCURACY = Metric("accuracy")
FLOAT = Row(
    "cnn",
    "onnx fp32",
    "fp32",
    "onnx",
    (),
    "a" * 64,
    4000,
    4000,
    score=0.98,
    agreement=1.0,
    drop=0.0,
    latency_ms=2.0,
)
INT8 = replace(
    FLOAT, trial="onnx int8", precision="int8", sha256="b" * 64, size_bytes=1000, transfer_bytes=700,
    score=0.97, agreement=0.98, drop=1.0, latency_ms=1.0,
)  # fmt: skip
ENTROPY = replace(INT8, trial="onnx int8 entropy")
WORSE = replace(FLOAT, trial="onnx dynamic", sha256="c" * 64, score=0.97, drop=1.0, latency_ms=3.0)
OTHER = replace(
    FLOAT, model="a <large> one", sha256="d" * 64, score=0.99, drop=-1.0, size_bytes=9000, transfer_bytes=9000
)
FOREIGN = replace(INT8, architectures=("aarch64",), sha256="e" * 64, latency_ms=None, reason="for aarch64")
FAILED = Row("cnn", "onnx fp16", reason="It cannot be made.")


def a_sweep(*rows: Row) -> Sweep:
    return Sweep(tuple(arranged(judged(rows, ACCURACY, {"cnn": 0.98}))), ACCURACY)


def test_what_a_model_lacks_beside_the_best_counts_too() -> None:
    both = [INT8, replace(INT8, model="large"), FAILED]

    found = judged(both, ACCURACY, {"cnn": 0.98, "large": 0.99})

    assert [row.drop for row in found] == [pytest.approx(2.0), pytest.approx(1.0), None]


def test_errors_and_agreement_are_told_against_the_own_float_model() -> None:
    error = Metric("mae", is_share=False, higher_is_better=False)

    assert judged([INT8], error, {"cnn": 3.0, "large": 1.0}) == [INT8]
    assert judged([INT8], ACCURACY, {}) == [INT8]


def test_the_front_comes_first_and_what_was_not_measured_last() -> None:
    found = a_sweep(FAILED, WORSE, FOREIGN, FLOAT, INT8)
    assert [row.trial for row in found.front] == ["onnx int8", "onnx fp32"]
    assert [row.trial for row in found.rows] == [
        "onnx int8",
        "onnx fp32",
        "onnx dynamic",
        "onnx fp16",
        "onnx int8",
    ]


def test_of_trials_that_made_the_same_file_the_first_is_on_the_front() -> None:
    assert [row.trial for row in a_sweep(INT8, ENTROPY, FLOAT).front] == ["onnx int8", "onnx fp32"]


def test_the_table_marks_front_and_pick_and_gives_reasons() -> None:
    found = a_sweep(FLOAT, INT8, WORSE, FAILED)
    picked = tuple(replace(row, picked=row.trial == "onnx int8") for row in found.rows)
    stream = io.StringIO()
    show_sweep(replace(found, rows=picked, pick="fastest", package=Path("packages/cnn/1")), stream)
    lines = stream.getvalue().splitlines()
    headings, *rows = (line.split() for line in lines if line.strip(" ─"))
    assert headings == ["trial", "accuracy", "drop", "size", "compressed", "latency", "note"]
    assert rows[0] == ["*>", "onnx", "int8", "97.00", "%", "1.00", "1", "kB", "700", "B", "1", "ms"]
    assert rows[1][:3] == ["*", "onnx", "fp32"]
    assert rows[2][:2] == ["onnx", "dynamic"]
    assert rows[3][-4:] == ["It", "cannot", "be", "made."]
    assert lines[-2:] == ["> picked by 'fastest': cnn, onnx int8", "packages/cnn/1"]


def test_several_models_are_told_apart() -> None:
    stream = io.StringIO()
    show_sweep(a_sweep(FLOAT, OTHER), stream)
    assert "a <large> one" in stream.getvalue()


def test_everything_goes_into_json() -> None:
    content = json.loads(json.dumps(a_sweep(FLOAT, FAILED).as_json()))
    assert content["metric"] == "accuracy"
    assert [row["trial"] for row in content["rows"]] == ["onnx fp32", "onnx fp16"]
    assert (content["picked"], content["package"]) == (None, None)


def test_the_picture_is_whole_and_the_same_each_time(tmp_path: Path) -> None:
    found = a_sweep(FLOAT, INT8, WORSE, OTHER, FAILED)
    assert picture(found) == picture(found)
    write_plot(found, tmp_path / "sweep.svg")
    texts = "".join(ElementTree.fromstring((tmp_path / "sweep.svg").read_text()).itertext())
    assert "latency of a run (ms)" in texts
    assert "onnx int8" in texts
    assert "a <large> one, on the front" in texts


def test_the_page_needs_nothing_else_and_escapes_names() -> None:
    content = html(a_sweep(FLOAT, OTHER, FAILED))
    assert "a &lt;large&gt; one" in content
    assert "<large>" not in content
    assert "src=" not in content
    assert "http" not in content.replace("http-equiv", "").replace("http://www.w3.org/", "")


def test_a_sweep_without_measured_rows_can_be_drawn() -> None:
    assert picture(a_sweep(FAILED)).rstrip().endswith("</svg>")


@pytest.mark.parametrize("name", ["sweep.svg", "deep/sweep.html"])
def test_the_plot_is_written_by_its_suffix(tmp_path: Path, name: str) -> None:
    write_plot(a_sweep(FLOAT), tmp_path / name)
    assert "<svg" in (tmp_path / name).read_text()


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"as \.svg or \.html, not as 'sweep\.png'"):
        write_plot(a_sweep(FLOAT), tmp_path / "sweep.png")
