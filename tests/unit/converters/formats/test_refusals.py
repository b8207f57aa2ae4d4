"""What a model file can have wrong: one sentence each, with the name of what is wrong."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from onnx import TensorProto, helper, numpy_helper

from converters.formats import tflite_model
from converters.formats.sources import read_source
from edge_agent.documents.errors import EdgeAgentError, ModelError
from support import convertible


@pytest.fixture(scope="module")
def weights() -> convertible.Weights:
    return convertible.fitted()


def refused(path: Path, match: str) -> None:
    with pytest.raises(ModelError, match=match) as caught:
        read_source(path)
    said = str(caught.value)
    assert said.endswith(".")
    assert "\n" not in said


class TestOnnx:
    @pytest.fixture
    def changed(self, tmp_path: Path, weights: convertible.Weights) -> Callable[..., Path]:
        """Write the CNN after a change to its `ModelProto`."""

        def write(change: Callable[[onnx.ModelProto], object]) -> Path:
            path = convertible.write_onnx(tmp_path / "m.onnx", weights)
            model = onnx.load(path)
            change(model)
            path.write_bytes(model.SerializeToString())
            return path

        return write

    @pytest.mark.parametrize("location", ["weights.bin", "/etc/passwd", "../../weights.bin"])
    def test_external_initializers(self, changed, location: str) -> None:
        def change(model: onnx.ModelProto) -> None:
            outside(model.graph.initializer[0], location)

        refused(changed(change), r"external data, tensor 'filters'\)")

    def test_external_constants_and_those_of_branches(self, changed) -> None:
        def constant(model: onnx.ModelProto) -> None:
            tensor = numpy_helper.from_array(np.ones(3, np.float32), "hidden")
            outside(tensor, "/tmp/x")
            model.graph.node.insert(0, helper.make_node("Constant", [], ["unused"], value=tensor))

        def branch(model: onnx.ModelProto) -> None:
            tensor = numpy_helper.from_array(np.ones(3, np.float32), "inner")
            outside(tensor, "../x")
            graph = helper.make_graph([], "branch", [], [], [tensor])
            model.graph.node.append(
                helper.make_node("If", ["scores"], [], then_branch=graph, else_branch=graph)
            )

        refused(changed(constant), "'hidden'")
        refused(changed(branch), "'inner'")

    def test_custom_operators_are_named(self, changed) -> None:
        def change(model: onnx.ModelProto) -> None:
            model.graph.node[1].domain, model.graph.node[1].op_type = "my.company", "Swoosh"
            model.opset_import.append(helper.make_opsetid("my.company", 1))

        refused(changed(change), r"custom operators that no device has \(my.company.Swoosh\)")

    def test_functions_of_the_model_itself_are_no_custom_operators(self, changed) -> None:
        def change(model: onnx.ModelProto) -> None:
            model.graph.node[1].domain, model.graph.node[1].op_type = "my.company", "Swoosh"
            model.opset_import.append(helper.make_opsetid("my.company", 1))
            node = helper.make_node("Relu", ["a"], ["b"])
            opset = [helper.make_opsetid("", 17)]
            model.functions.append(helper.make_function("my.company", "Swoosh", ["a"], ["b"], [node], opset))

        assert read_source(changed(change)).operators["Swoosh"] == 1

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_weights_that_are_no_numbers(self, changed, value: float) -> None:
        def change(model: onnx.ModelProto) -> None:
            array = numpy_helper.to_array(model.graph.initializer[1]).copy()
            array[3, 2] = value
            model.graph.initializer[1].CopyFrom(numpy_helper.from_array(array, "last"))

        refused(changed(change), r"NaN or infinite \(tensor 'last'\)")

    def test_masks_may_be_infinite(self, changed) -> None:
        def change(model: onnx.ModelProto) -> None:
            mask = numpy_helper.from_array(np.float32([0, -np.inf]), "mask")
            model.graph.initializer.append(mask)

        assert read_source(changed(change)).precision == "fp32"

    def test_claims_beyond_what_is_there(self, changed) -> None:
        def change(model: onnx.ModelProto) -> None:
            model.graph.initializer[0].dims[0] = 2**60

        refused(changed(change), r"damaged: tensor 'filters' of shape \[1152921504606846976, 1, 3, 3\]")

    def test_names_in_sentences_are_printable_and_short(self, changed) -> None:
        def change(model: onnx.ModelProto) -> None:
            outside(model.graph.initializer[0], "x")
            model.graph.initializer[0].name = "line\nfeed" + 1000 * "x"

        refused(changed(change), r"'line\?feedx{10,200}…'")

    def test_operator_of_a_later_opset_is_named(self, changed) -> None:
        def change(model: onnx.ModelProto) -> None:
            model.graph.node[1].op_type = "Swish"

        refused(changed(change), "Swish")


class TestTflite:
    @pytest.fixture
    def changed(self, tmp_path: Path, weights: convertible.Weights) -> Callable[..., Path]:
        """Write the CNN after a change to its `ModelT`."""

        def write(change: Callable[[schema.ModelT], object]) -> Path:
            path = convertible.write_tflite(tmp_path / "m.tflite", weights)
            model = tflite_model.read(path)
            change(model)
            path.write_bytes(tflite_model.serialised(model))
            return path

        return write

    def custom(self, name: bytes) -> Callable[[schema.ModelT], None]:
        def change(model: schema.ModelT) -> None:
            code = model.operatorCodes[1]
            code.builtinCode, code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM, 32
            code.customCode = name

        return change

    def test_custom_operators_are_named(self, changed) -> None:
        refused(changed(self.custom(b"MaxPoolingWithArgmax2D")), r"\(MaxPoolingWithArgmax2D\); export it")

    def test_tensorflow_operators_are_named_with_a_way_round(self, changed) -> None:
        refused(changed(self.custom(b"FlexErf")), r"own operators \(FlexErf\).*without SELECT_TF_OPS")

    def test_custom_operators_that_the_runtimes_have_are_let_through(self, changed) -> None:
        read = read_source(changed(self.custom(b"TFLite_Detection_PostProcess")))

        assert read.operators["TFLite_Detection_PostProcess"] == 1

    @pytest.mark.parametrize("half", [False, True])
    def test_weights_that_are_no_numbers(self, tmp_path: Path, weights, half: bool) -> None:
        last = weights.last.copy()
        last[3, 2] = np.nan
        broken = convertible.Weights(weights.filters, last, weights.bias)

        path = convertible.write_tflite(tmp_path / "m.tflite", broken, half=half)

        refused(path, rf"NaN or infinite \(tensor 'last{'_half' if half else ''}'\)")

    def test_claims_beyond_what_is_there(self, changed) -> None:
        def change(model: schema.ModelT) -> None:
            tensor = next(one for one in model.subgraphs[0].tensors if one.name == b"filters")
            tensor.shape = [2**31 - 1, 2**31 - 1, 3, 3]

        refused(changed(change), r"damaged: tensor 'filters' of shape \[2147483647, 2147483647, 3, 3\]")

    @pytest.mark.parametrize("index", [-1, 1000])
    def test_indexes_that_lead_nowhere(self, changed, index: int) -> None:
        def change(model: schema.ModelT) -> None:
            model.subgraphs[0].outputs = [index]

        refused(changed(change), "truncated or damaged")

    def test_vectors_that_overlap_end_the_reading_at_once(self, tmp_path: Path, weights) -> None:
        content = bytearray(convertible.write_tflite(tmp_path / "m.tflite", weights).read_bytes())
        graph = schema.Model.GetRootAs(bytes(content), 0).Subgraphs(0)
        field = graph._tab.Offset(4)
        vector = graph._tab.Vector(field)
        # As many tensors as the field can claim.
        content[vector - 4 : vector] = (2**31 - 1).to_bytes(4, "little")
        path = tmp_path / "many.tflite"
        path.write_bytes(content)

        refused(path, "truncated or damaged")


@pytest.mark.parametrize("suffix", [".onnx", ".tflite"])
def test_truncated_at_every_length(tmp_path: Path, weights: convertible.Weights, suffix: str) -> None:
    write = convertible.write_onnx if suffix == ".onnx" else convertible.write_tflite
    whole = write(tmp_path / f"whole{suffix}", weights).read_bytes()
    path = tmp_path / f"cut{suffix}"
    for length in {*range(0, 64), *range(64, len(whole), 97), len(whole) - 1}:
        path.write_bytes(whole[:length])
        refused(path, "empty|truncated|not a valid|neither|damaged")


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 100, b"hello world", b"\x08\x08TFL3\0\0", b"\xff" * 1000, b"PK\3\4"]
)
def test_other_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model"
    path.write_bytes(content)
    refused(path, "give a complete|export it again")


def test_file_of_two_gigabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.onnx"
    with path.open("wb") as file:
        file.truncate(2**31)
    refused(path, "larger than 2 GB")


@pytest.mark.parametrize("seed", range(4))
def test_damaged_bytes_never_raise_anything_else(tmp_path: Path, weights, seed: int) -> None:
    random = np.random.default_rng(seed)
    sources = (
        convertible.write_onnx(tmp_path / "a.onnx", weights),
        convertible.write_tflite(tmp_path / "b.tflite", weights, half=True, old=True),
        convertible.okay_nabu(),
    )
    path = tmp_path / "damaged"
    refusals: list[EdgeAgentError] = []
    for source in sources:
        whole = source.read_bytes()
        for _ in range(60):
            # The structure is at the beginning of ONNX files and spread over the others.
            near = min(len(whole), int(random.choice([300, 3000, len(whole)])))
            content = bytearray(whole)
            for _ in range(int(random.integers(1, 5))):
                content[int(random.integers(near))] = int(random.choice([0, 1, 127, 128, 255]))
            path.write_bytes(content)
            try:
                read_source(path)
            except EdgeAgentError as error:
                refusals.append(error)
    assert len(refusals) > 20
    assert all(isinstance(error, ModelError) and "\n" not in str(error) for error in refusals)


def outside(tensor: TensorProto, location: str) -> None:
    tensor.data_location = TensorProto.EXTERNAL
    tensor.ClearField("raw_data")
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
