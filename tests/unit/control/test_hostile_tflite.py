"""TFLite files that were made to do harm: each is told in one sentence, whatever it does to the probe."""

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers
import pytest
from ai_edge_litert import schema_py_generated as schema

from edge_agent.control.prober import try_version
from edge_agent.documents import ipc
from edge_agent.documents.plan import VersionPlan
from edge_agent.documents.settings import EngineSettings, ProbeSettings, Settings
from edge_agent.documents.tensors import TensorSpec
from support.serving import doubling_tflite

FLEX, CUSTOM = b"FlexMul", b"EvilOp"


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    return doubling_tflite(tmp_path / "sound.tflite")


def tried(path: Path) -> ipc.ProbeVerdict:
    version = VersionPlan(
        "m",
        "1",
        "tflite",
        "fp32",
        "0" * 64,
        str(path),
        path.stat().st_size,
        (TensorSpec("x", "FP32", (-1, 3)),),
        (TensorSpec("y", "FP32", (-1, 3)),),
    )
    probe = ProbeSettings(timeout_s=30, memory_limit_bytes=600 * 2**20)
    return asyncio.run(try_version(version, Settings(probe=probe, engines=EngineSettings(threads=1))))


def changed(path: Path, deed: Callable[[Any], None]) -> Path:
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    deed(model)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def test_the_file_that_the_others_are_made_of_is_sound(sound: Path) -> None:
    assert tried(changed(sound, lambda model: None)).outcome == "passed"


@pytest.mark.parametrize("name", [FLEX, CUSTOM])
def test_operators_of_other_libraries(sound: Path, name: bytes) -> None:
    def deed(model: Any) -> None:
        for code in model.operatorCodes:
            code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
            code.customCode = name

    verdict = tried(changed(sound, deed))
    assert verdict.outcome == "failed"
    assert verdict.reason.startswith("TFLite cannot load sound.tflite: ")
    assert "\n" not in verdict.reason


@pytest.mark.parametrize("shape", [[2**31 - 1, 2**31 - 1], [2**31 - 1], [-5], [2**20, 2**12]])
def test_shapes_beyond_any_device(sound: Path, shape: list[int]) -> None:
    def deed(model: Any) -> None:
        for tensor in model.subgraphs[0].tensors:
            tensor.shape, tensor.shapeSignature = shape, shape

    refused(tried(changed(sound, deed)))


def test_indexes_of_what_there_is_not(sound: Path) -> None:
    def deed(model: Any) -> None:
        model.subgraphs[0].operators[0].inputs = [2**30, 2**30]

    refused(tried(changed(sound, deed)))


@pytest.mark.slow
def test_files_with_bytes_that_somebody_changed(sound: Path) -> None:
    """Whatever comes of it, a verdict does, and a reason in one line."""
    content = sound.read_bytes()
    for seed in range(40):
        draw = random.Random(seed)
        damaged = bytearray(content)
        for _ in range(draw.choice((1, 4, 32))):
            damaged[draw.randrange(8, len(damaged))] = draw.randrange(256)
        sound.write_bytes(bytes(damaged[: draw.choice((None, None, draw.randrange(9, len(damaged))))]))
        verdict = tried(sound)
        assert verdict.outcome in ("passed", "failed"), verdict
        assert "\n" not in verdict.reason


def refused(verdict: ipc.ProbeVerdict) -> None:
    assert verdict.outcome == "failed", verdict
    assert verdict.reason
    assert "\n" not in verdict.reason
