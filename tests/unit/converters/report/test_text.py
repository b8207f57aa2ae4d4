import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.checks.metrics import Metric
from converters.report import text
from support import reports


def width(headings: tuple[str, ...], lines: list[tuple[str, ...]]) -> int:
    """Return the width of a table whose last column is folded at its words."""
    widths = [
        max(
            len(part) for cell in column for part in (cell.split(" ") if index == len(headings) - 1 else [cell])
        )
        for index, column in enumerate(zip(headings, *lines, strict=True))
    ]
    return sum(widths) + text.GAP * len(widths)


def test_table_has_what_was_measured() -> None:
    headings, lines = text.table(reports.example(), 200)

    assert headings == (
        "variant", "size", "ratio", "download", "latency", "memory", "accuracy", "drop", "agreement", "runs on",
    )  # fmt: skip
    assert lines[0] == (
        "onnx int8 (x86_64)", "171 kB", "0.26x", "140 kB", "0.214 ms", "2.31 MB", "93.91 %", "0.21", "99.69 %",
        "onnxruntime",
    )  # fmt: skip
    assert lines[-1][-1] == "(left out)"


@given(st.integers(60, 130))
def test_table_keeps_within_the_width(limit: int) -> None:
    headings, lines = text.table(reports.example(), limit)

    assert width(headings, lines) <= max(limit, 77)
    assert {"variant", "size", "latency", "accuracy", "drop", "runs on"} <= set(headings)


def test_columns_that_say_nothing_are_left_out() -> None:
    own = reports.example()
    rows = tuple(dataclasses.replace(row, compressed_bytes=None, score=None) for row in own.rows)

    headings, _ = text.table(dataclasses.replace(own, rows=rows), 200)

    assert "download" not in headings
    assert "accuracy" not in headings


def test_agreement_stands_there_once() -> None:
    own = dataclasses.replace(reports.example(), metric=Metric("agreement"))

    headings, _ = text.table(own, 200)

    assert headings.count("agreement") == 1


@pytest.mark.parametrize(
    ("count", "said"), [(999, "999 B"), (1000, "1 kB"), (999_499, "999 kB"), (1_500_000, "1.50 MB")]
)
def test_sizes(count: int, said: str) -> None:
    assert text.size(count) == said


@pytest.mark.parametrize(
    ("drop", "said"), [(0.0, "0.00"), (-0.001, "0.00"), (1.234, "1.23"), (-0.5, "+0.50"), (84, "84.00")]
)
def test_points(drop: float, said: str) -> None:
    assert text.points(drop) == said


def test_latencies_have_three_digits() -> None:
    assert [text.milliseconds(value) for value in (0.00312, 1.2345, 136.4, 2345.6)] == [
        "0.00312 ms", "1.23 ms", "136 ms", "2346 ms",
    ]  # fmt: skip


def test_scores_are_shown_as_the_metric_says() -> None:
    assert Metric("accuracy").text(0.93914) == "93.91 %"
    assert Metric("RMSE", is_share=False, higher_is_better=False).text(0.012345) == "0.01235"


def test_summary_and_reasons() -> None:
    own = reports.example()

    assert text.summary(own) == "Measured on 1943 given samples; the source model's accuracy is 94.12 %."
    assert text.reasons(own.rows)[0].startswith("tflite dynamic: not for tflite-runtime")
    assert text.reasons(own.rows)[-1].startswith("tflite fp32 is left out: it loses")
