from pathlib import Path
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converters.checks.judge import Judged
from converters.conversion import assemble
from converters.conversion.assemble import Verdict
from converters.errors import GateError
from converters.quantize.variants import Candidate
from converters.workers.trials import Loaded
from converters.workers.worker import Worker

LOADED = Loaded(cast(Worker, None), "onnxruntime 1.32.0", (), (), "onnx", Path("x"))
"""A model that was loaded; nothing here runs it."""


def verdict(
    precision: str,
    latency_ms: float | None,
    size_bytes: int = 100,
    architectures: tuple[str, ...] = (),
    reason: str = "",
    engine: str = "onnx",
) -> Verdict:
    sha256 = f"{engine}{precision}{architectures}{size_bytes}"
    candidate = Candidate(precision, engine, Path("x"), size_bytes, sha256, "made", architectures)
    judged = Judged(candidate, loaded=LOADED)
    if latency_ms is not None:
        judged.latencies_ms[LOADED.runtime] = latency_ms
    return Verdict(judged, reason)


def names(verdicts: list[Verdict]) -> list[str]:
    return [one.judged.candidate.precision for one in verdicts]


def test_fastest_first() -> None:
    found = [verdict("fp32", 4.0), verdict("dynamic", 5.0), verdict("int8", 2.0)]

    assert names(assemble.ordered(found, None)) == ["int8", "fp32", "dynamic"]


def test_ties_go_to_the_smaller() -> None:
    found = [verdict("fp32", 4.0, 300), verdict("dynamic", 4.1, 100)]

    assert names(assemble.ordered(found, None)) == ["dynamic", "fp32"]


def test_what_cannot_be_timed_follows_its_precision() -> None:
    found = [
        verdict("fp32", 4.0, 300),
        verdict("int8", None, 90, ("aarch64",)),
        verdict("int8", 2.0, 95, ("x86_64",)),
        verdict("dynamic", 2.05, 99),
    ]

    best = assemble.ordered(found, None)

    assert names(best) == ["int8", "int8", "dynamic", "fp32"]
    assert best[0].judged.candidate.architectures == ("x86_64",)


def test_order_that_was_asked_for() -> None:
    found = [verdict("fp32", 1.0), verdict("int8", 2.0), verdict("dynamic", 3.0)]

    assert names(assemble.ordered(found, ["dynamic", "int8"])) == ["dynamic", "int8", "fp32"]


def test_order_by_size_for_reproducible_builds() -> None:
    found = [verdict("fp32", 1.0, 300), verdict("int8", 2.0, 100)]

    assert names(assemble.ordered(found, None, by_latency=False)) == ["int8", "fp32"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["fp32", "fp16", "dynamic", "int8"]),
            st.one_of(st.none(), st.floats(0.01, 100)),
            st.integers(1, 1000),
            st.booleans(),
        ),
        max_size=6,
    )
)
def test_every_packaged_variant_is_ordered_once(drawn) -> None:
    found = [verdict(p, latency, size, reason="" if good else "bad") for p, latency, size, good in drawn]

    best = assemble.ordered(found, None)

    assert sorted(map(id, best)) == sorted(id(one) for one in found if not one.reason)


def test_formats_of_a_precision_are_ordered_apart() -> None:
    found = [
        verdict("int8", 3.0, 90, engine="tflite"),
        verdict("int8", 1.0, 95, ("x86_64",)),
        verdict("int8", None, 94, ("aarch64",)),
        verdict("fp32", 2.0, 300),
    ]

    best = assemble.ordered(found, None)

    assert [one.judged.candidate.engine for one in best] == ["onnx", "onnx", "onnx", "tflite"]
    assert names(best) == ["int8", "int8", "fp32", "int8"]


def test_of_one_kind_the_faster_comes_first() -> None:
    found = [verdict("dynamic", 3.0, 80, engine="tflite"), verdict("dynamic", 1.0, 90, engine="tflite")]

    assert [one.judged.latency_ms for one in assemble.ordered(found, None)] == [1.0, 3.0]


def check(found: list[Verdict], wanted: dict[str, tuple[str, ...]], *, formats: bool = False) -> None:
    assemble.check_asked_for(found, wanted, precisions=True, formats=formats)


def test_precision_that_was_asked_for_must_be_packaged() -> None:
    found = [verdict("fp32", 1.0), verdict("int8", 2.0, reason="it loses 9 points")]

    check(found, {"onnx": ("fp32",)})
    with pytest.raises(GateError, match="int8 variant is not good enough: it loses 9 points"):
        check(found, {"onnx": ("fp32", "int8")})


def test_one_format_is_enough_unless_both_were_asked_for() -> None:
    found = [verdict("int8", 1.0), verdict("int8", 2.0, reason="it is too slow", engine="tflite")]
    wanted = {"onnx": ("int8",), "tflite": ("int8",)}

    check(found, wanted)
    with pytest.raises(GateError, match="int8 variant is not good enough: it is too slow"):
        check(found, wanted, formats=True)


def test_defaults_may_be_left_out() -> None:
    found = [verdict("fp32", 1.0), verdict("dynamic", 2.0, reason="it loses 9 points")]

    assemble.check_asked_for(found, {"onnx": ("fp32", "dynamic")}, precisions=False, formats=False)


def test_target_that_was_asked_for_must_be_packaged() -> None:
    found = [verdict("fp32", 1.0), verdict("fp32", 2.0, reason="it loses 40 points", engine="tflite")]
    wanted = {"onnx": ("fp32", "dynamic"), "tflite": ("fp32", "dynamic")}

    assemble.check_asked_for(found, wanted, precisions=False, formats=False)
    with pytest.raises(GateError, match="No tflite variant is good enough: it loses 40 points"):
        assemble.check_asked_for(found, wanted, precisions=False, formats=True)
    with pytest.raises(GateError, match="No tflite variant is good enough: none of the precisions"):
        assemble.check_asked_for(
            [verdict("fp32", 1.0)], {"onnx": ("fp32",), "tflite": ()}, precisions=True, formats=True
        )


def test_nothing_to_package_is_an_error() -> None:
    with pytest.raises(GateError, match="No variant is good enough: onnx fp32: too large"):
        check([verdict("fp32", 1.0, reason="too large")], {})
