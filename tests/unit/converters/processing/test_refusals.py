"""Models that no processing can be written around: one sentence each, and nothing is left behind."""

from pathlib import Path

import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from onnx import TensorProto, helper

from converters.errors import ConversionError
from converters.processing import onnx as to_onnx
from converters.processing import tflite as to_tflite
from converters.processing.settings import (
    AudioSettings,
    ImageSettings,
    PostprocessSettings,
    PreprocessSettings,
)
from edge_agent.documents.errors import EdgeAgentError, ModelError, RequestError
from support import convertible, processable

IMAGE = PreprocessSettings(image=ImageSettings())
SAMPLES = PreprocessSettings(audio=AudioSettings())
NOTHING_BEFORE, NOTHING_AFTER = PreprocessSettings(), PostprocessSettings()
SOFTMAX, ARGMAX = PostprocessSettings(softmax=True), PostprocessSettings(argmax=True)
LABELS = PostprocessSettings(labels=True)


def refuse(
    source: Path, pre: PreprocessSettings, post: PostprocessSettings, kind: type[EdgeAgentError], match: str
) -> None:
    """Expect that a model is refused in one sentence, in the format that its name ends in."""
    write = to_tflite.add_processing if source.suffix == ".tflite" else to_onnx.add_processing
    target = source.with_name("target")
    with pytest.raises(kind, match=match) as caught:
        write(source, target, pre, post, ("a", "b"))
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")
    assert not target.exists()


@pytest.mark.parametrize("file", ["m.onnx", "m.tflite"])
def test_not_a_model(tmp_path: Path, file: str) -> None:
    (tmp_path / file).write_bytes(b"no model, whatever the name")

    refuse(tmp_path / file, IMAGE, NOTHING_AFTER, ModelError, "truncated")


def test_real_models_that_take_no_floats(tmp_path: Path) -> None:
    for model, name in ((convertible.magika(), "m.onnx"), (convertible.okay_nabu(), "m.tflite")):
        (tmp_path / name).write_bytes(model.read_bytes())

    refuse(tmp_path / "m.onnx", SAMPLES, NOTHING_AFTER, ConversionError, "'bytes' takes INT32")
    refuse(tmp_path / "m.tflite", SAMPLES, NOTHING_AFTER, ConversionError, "takes INT8")
    refuse(tmp_path / "m.tflite", NOTHING_BEFORE, ARGMAX, ConversionError, "gives UINT8, not scores")


def test_text(tmp_path: Path) -> None:
    source = processable.onnx_mirror(tmp_path / "m.onnx", ("n", 4), kind=TensorProto.STRING)

    refuse(source, SAMPLES, NOTHING_AFTER, ConversionError, "'given' takes text")
    refuse(source, NOTHING_BEFORE, ARGMAX, ConversionError, "'seen' gives text, not scores")


def test_type_without_a_name_in_the_protocol(tmp_path: Path) -> None:
    source = processable.onnx_mirror(tmp_path / "m.onnx", ("n", 4), kind=TensorProto.BFLOAT16)

    refuse(source, SAMPLES, NOTHING_AFTER, ConversionError, "BFLOAT16, which cannot be served")


def test_half_floats_in_tflite(tmp_path: Path) -> None:
    source = processable.tflite_mirror(tmp_path / "m.tflite", (1, 4), kind=schema.TensorType.FLOAT16)

    refuse(source, SAMPLES, NOTHING_AFTER, ConversionError, "'given' is FP16")
    refuse(source, NOTHING_BEFORE, SOFTMAX, ConversionError, "'seen' is FP16")


def test_map_of_classes(tmp_path: Path) -> None:
    node = helper.make_node("ZipMap", ["given"], ["seen"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])
    pairs = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    graph = helper.make_graph(
        [node],
        "model",
        [helper.make_tensor_value_info("given", TensorProto.FLOAT, ["n", 2])],
        [helper.make_value_info("seen", helper.make_sequence_type_proto(pairs))],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "m.onnx")

    refuse(tmp_path / "m.onnx", NOTHING_BEFORE, SOFTMAX, ConversionError, "'seen' is no plain tensor")


def test_old_opset_that_cannot_be_upgraded(tmp_path: Path) -> None:
    names = ("given", "factor", "summand")
    graph = helper.make_graph(
        [helper.make_node("Gemm", names, ["seen"])],
        "model",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 8, 8]) for name in names],
        [helper.make_tensor_value_info("seen", TensorProto.FLOAT, [1, 3, 8, 8])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 6)], ir_version=8)
    onnx.save(model, tmp_path / "m.onnx")

    refuse(tmp_path / "m.onnx", IMAGE, NOTHING_AFTER, ModelError, "opset 6, which is too old")


@pytest.mark.parametrize("file", ["m.onnx", "m.tflite"])
def test_labels(tmp_path: Path, file: str) -> None:
    source = tmp_path / file
    if file == "m.tflite":
        processable.tflite_mirror(source, (1, 2))
        refuse(source, NOTHING_BEFORE, LABELS, ConversionError, "TFLite has no output of text")
    else:
        processable.onnx_mirror(source, ("n", 3))
        refuse(source, NOTHING_BEFORE, LABELS, RequestError, "2 class names, but output 'seen' has 3 values")


@pytest.mark.parametrize("file", ["m.onnx", "m.tflite"])
def test_output_called_class(tmp_path: Path, file: str) -> None:
    mirror = processable.onnx_mirror if file == "m.onnx" else processable.tflite_mirror
    source = mirror(tmp_path / file, (1, 3), seen="class")

    refuse(source, NOTHING_BEFORE, ARGMAX, ConversionError, "'class' of its own")
