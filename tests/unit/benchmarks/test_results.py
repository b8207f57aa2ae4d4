"""What the converters' benchmark makes of measured lines: means, ratios, targets, tables, and what it keeps."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import __main__ as bench
from benchmarks.converters import kept, measuring, results, tables
from benchmarks.converters.building import REFUSED, Built, Refused
from benchmarks.converters.kept import Kept
from benchmarks.converters.measuring import Line, Timing
from benchmarks.converters.results import Result
from benchmarks.converters.subjects import Case


def line(variant: str, score: list[float], base: list[float], size: int = 1000, **other: Any) -> Line:
    found = Line(variant, "onnx", "onnxruntime", "", size, size // 2, score, base)
    for name, value in other.items():
        setattr(found, name, value)
    return found


def case(*checks: str) -> Case:
    return Case("tiny", None, ("onnx",), checks=frozenset(checks))  # type: ignore[arg-type]


def by_name(rows: list[results.Row]) -> dict[object, results.Row]:
    return {row["name"]: row for row in rows}


class TestTargets:
    def test_int8_is_held_against_the_float_model_seed_by_seed(self) -> None:
        lines = [
            line("fp32", [98, 96], [98, 96], latency_ms=4.0),
            line("int8", [97.4, 95.6], [98, 96], size=270, latency_ms=2.1),
        ]
        found = by_name(results.targets(Result(case("int8", "speed"), lines, (), 2)))
        assert found["tiny: onnx int8: size"] | {"value": 0.27, "met": True} == found["tiny: onnx int8: size"]
        assert (found["tiny: onnx int8: lost"]["value"], found["tiny: onnx int8: lost"]["met"]) == (0.5, True)
        faster = found["tiny: onnx int8: faster"]
        assert (faster["value"], faster["met"]) == (1.9048, False)

    def test_what_was_not_measured_is_not_met(self) -> None:
        found = results.targets(Result(case("int8", "speed", "search"), [line("fp32", [98], [98])], (), 1))
        assert len(found) == 5
        assert all(row["value"] is None and row["met"] is False for row in found)

    def test_search_needs_a_model_that_plain_int8_ruins(self) -> None:
        lines = [line("fp32", [98], [98]), line("int8", [97], [98]), line("int8 search", [98], [98])]
        before, after = results.targets(Result(case("search"), lines, (), 1))
        assert (before["value"], before["met"], after["value"], after["met"]) == (1, False, 0, True)


class TestTables:
    def test_row_tells_ratios_to_the_float_model_on_the_same_engine(self) -> None:
        lines = [
            line("fp32", [98], [98], latency_ms=4.0),
            line("int8", [97], [98], size=250, latency_ms=2.0, note=REFUSED),
        ]
        _, row = tables.cells(Result(case(), lines, (), 1))
        assert row == (
            *("onnx int8", "onnxruntime", "1", "97.00", "+1.00", "0 kB (0.250x)", "0 kB (0.250x)"),
            *("2.000 ms (2.0x faster)", "-", REFUSED),
        )

    def test_markdown_has_a_table_a_case_and_one_of_all_targets(self) -> None:
        lines = [line("fp32", [98], [98]), line("int8", [97], [98], size=250)]
        refused = (Refused("fp16", "onnx", "It can't."),)
        text = tables.markdown([Result(case("int8"), lines, refused, 1)])
        assert "- Not made: onnx fp16: It can't." in text
        assert "| tiny: onnx int8: lost | 1 points | 0.5 | **missed** |" in text


class TestKept:
    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(kept, "RESULTS", tmp_path / "results")
        return tmp_path

    def test_seeds_and_latencies_come_together(self, folder: Path) -> None:
        mine = Kept(case(), quick=False)
        assert mine.result() is None
        mine.write_scores(0, [line("fp32", [98], [98])], [])
        mine.write_scores(1, [line("fp32", [96], [97])], [Refused("int8", "onnx", "No.")])
        mine.write_timings([Timing("fp32", "onnx", "onnxruntime", 1.5, 2_000_000)])

        found = mine.result()
        assert found is not None
        (one,) = found.lines
        assert (one.score, one.lost, one.latency_ms, one.memory_bytes) == ([98, 96], 0.5, 1.5, 2_000_000)
        assert (found.seeds, found.refused) == (2, (Refused("int8", "onnx", "No."),))
        assert [mine.has(seed) for seed in range(3)] == [True, True, False]
        mine.clear()
        assert mine.result() is None

    def test_files_outlive_the_folder_that_they_were_built_in(self, folder: Path) -> None:
        built = folder / "built.onnx"
        built.write_bytes(b"model")
        mine = Kept(case(), quick=True)
        mine.write_files([Built("int8", "onnx", built, ("onnxruntime",))], {"x": np.ones((1, 2))}, None)
        built.unlink()

        (file,) = mine.files()
        assert (file.variant, file.runtimes, file.path.read_bytes()) == ("int8", ("onnxruntime",), b"model")
        np.testing.assert_array_equal(mine.sample()["x"], np.ones((1, 2)))
        assert mine.model() is None


class TestFiles:
    def test_each_runtime_gets_the_file_that_it_is_offered(self) -> None:
        new = Built("dynamic", "tflite", Path("new"), ("ai-edge-litert",))
        old = Built("dynamic", "tflite", Path("old"), ("tflite-runtime",))
        assert measuring.for_runtime([new, old], "tflite-runtime") == [old]
        assert measuring.for_runtime([new, old], "ai-edge-litert") == [new]
        assert measuring.for_runtime([new], "tflite-runtime") == [new]


class TestChoice:
    def test_long_benchmarks_run_only_when_they_are_named(self) -> None:
        assert bench.chosen([]) == list(bench.MODULES)
        assert bench.chosen(["converters"]) == ["benchmarks.converters"]
        assert bench.chosen(["no such"]) == []
