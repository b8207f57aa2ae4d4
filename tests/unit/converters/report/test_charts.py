import dataclasses

import pytest

from converters.checks.metrics import Metric
from converters.report import charts
from converters.report.model import Histogram
from support import reports


def test_share_that_is_clipped_counts_parts_of_bins() -> None:
    histogram = Histogram("x", (0.0, 1.0, 2.0, 4.0), (10, 10, 20), 0.5, 3.0)

    assert charts.clipped(histogram) == pytest.approx((5 + 0 + 10) / 40)


def test_nothing_is_clipped_inside_the_range() -> None:
    assert charts.clipped(Histogram("x", (0.0, 1.0), (3,), -1.0, 2.0)) == 0
    assert charts.clipped(Histogram("x", (0.0, 0.0), (3,), 0.0, 0.0)) == 0


def test_changes_of_classes_are_the_largest_first_and_small_ones_none() -> None:
    own = reports.example()
    row = dataclasses.replace(own.rows[0], per_class={"a": 0.9, "b": 0.4, "c": 0.7001, "d": 1.0})
    report = dataclasses.replace(own, float_per_class={"a": 0.8, "b": 0.7, "c": 0.7, "e": 0.2})

    assert charts.changed_classes(report, row) == [("b", pytest.approx(-30)), ("a", pytest.approx(10))]


def test_hopeless_variant_does_not_squash_the_others() -> None:
    own = reports.example()
    _, points = charts._points(own, "size")

    low, high = charts._score_range(own, own.metric, points)

    assert 0.93 < low < min(row.score for row in own.rows if row.packaged and row.score)
    assert 0.9412 < high < 0.95


@pytest.mark.parametrize(
    ("metric", "best"),
    [(Metric(), {"onnx int8 (x86_64)", "tflite dynamic", "onnx fp32"}), (Metric("MAE", False, False), None)],
)
def test_front_follows_the_direction_of_the_metric(metric: Metric, best: set[str] | None) -> None:
    own = reports.example()
    _, points = charts._points(own, "latency")

    named = {point.row.label for point in charts._front(points, metric)}

    assert named == (best or {"onnx int8 (x86_64)", "tflite int8"})


def test_one_point_is_no_chart() -> None:
    own = reports.example()

    assert charts.tradeoff(dataclasses.replace(own, rows=own.rows[:1]), "size") is None


def test_legend_names_what_is_there() -> None:
    rows = reports.example().rows

    assert charts.legend(rows) == [("first", "ONNX"), ("second", "TFLite"), ("bad", "left out")]
    assert charts.legend(rows[:1]) == [("first", "ONNX")]
    assert charts.legend(rows[-1:]) == [("bad", "left out")]


def test_axis_of_shares_ends_at_all() -> None:
    own = reports.example()
    rows = tuple(dataclasses.replace(row, score=1.0) for row in own.rows)
    _, points = charts._points(dataclasses.replace(own, rows=rows), "size")

    low, high = charts._score_range(dataclasses.replace(own, float_score=1.0), own.metric, points)

    assert low < 1 < high < 1.01
