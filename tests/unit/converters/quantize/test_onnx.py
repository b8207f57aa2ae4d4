import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from converters.arrays import Sample
from converters.errors import ConversionError
from converters.formats import onnx_model
from converters.quantize import boundary
from converters.quantize import onnx as quantize_onnx
from converters.quantize.settings import QuantizeSettings
from edge_agent.documents.settings import EngineSettings
from edge_agent.engines.onnx import OnnxEngine
from support import convertible

STATIC = {"QuantizeLinear", "DequantizeLinear"}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convertible.write_onnx(tmp_path_factory.mktemp("model") / "cnn.onnx", convertible.fitted())


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return [{"image": image[None, None]} for image in convertible.images(40, seed=5).pixels]


def static(source: Path, target: Path, samples: list[Sample], signed: bool = False, **settings) -> Path:
    chosen = QuantizeSettings(**settings)
    quantize_onnx.quantize_static(source, target, samples, signed_activations=signed, settings=chosen)
    return target


def accuracy(path: Path) -> float:
    drawn = convertible.images(100)
    engine = OnnxEngine.load(path, EngineSettings())
    parameters = boundary.io_parameters(path)
    fed = boundary.to_integers({"image": drawn.pixels[:, None]}, engine.inputs, parameters)
    scores = boundary.to_floats(engine.run(fed), parameters)["scores"]
    return float((scores.argmax(axis=1) == drawn.classes).mean())


def kinds_of(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


class TestHalf:
    def test_signature_stays_and_the_file_is_half(self, source: Path, tmp_path: Path) -> None:
        target = tmp_path / "half.onnx"
        quantize_onnx.quantize_half(source, target)

        model = onnx_model.read(target)
        assert onnx_model.precision(model) == "fp16"
        assert target.stat().st_size < 0.6 * source.stat().st_size
        ends = (*model.graph.input, *model.graph.output)
        assert {value.type.tensor_type.elem_type for value in ends} == {TensorProto.FLOAT}
        assert accuracy(target) >= 0.97

    def test_excluded_layers_keep_float32(self, source: Path, tmp_path: Path) -> None:
        target = tmp_path / "half.onnx"
        quantize_onnx.quantize_half(source, target, QuantizeSettings(exclude=("Conv_0",)))

        types = {tensor.name: tensor.data_type for tensor in onnx_model.read(target).graph.initializer}
        assert types["filters"] == TensorProto.FLOAT
        assert types["last"] == TensorProto.FLOAT16
        assert accuracy(target) >= 0.97

    def test_branches_are_turned_with_what_they_read(self, tmp_path: Path) -> None:
        target = tmp_path / "half.onnx"
        quantize_onnx.quantize_half(branching(tmp_path / "if.onnx"), target)

        engine = OnnxEngine.load(target, EngineSettings())
        ones = np.ones((1, 4), np.float32)
        np.testing.assert_array_equal(engine.run({"image": ones})["scores"], ones)
        np.testing.assert_array_equal(engine.run({"image": -ones})["scores"], 0 * ones)


class TestBranches:
    """onnxruntime's quantizers put an If before what its branches read."""

    @pytest.mark.parametrize("kind", ["static", "dynamic"])
    def test_what_branches_read_comes_before_them(self, tmp_path: Path, kind: str) -> None:
        source, target = late(tmp_path / "late.onnx"), tmp_path / "q.onnx"
        inputs = [{"image": np.random.default_rng(i).normal(size=(1, 4)).astype(np.float32)} for i in range(9)]
        if kind == "static":
            static(source, target, inputs)
        else:
            quantize_onnx.quantize_dynamic(source, target)

        onnx_model.read(target)
        engine = OnnxEngine.load(target, EngineSettings())
        wanted = OnnxEngine.load(source, EngineSettings()).run(inputs[0])["scores"]
        np.testing.assert_allclose(engine.run(inputs[0])["scores"], wanted, atol=0.05)


class TestStatic:
    @pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
    def test_calibration_methods_work_and_differ(self, source, samples, tmp_path: Path, method: str) -> None:
        outlier = [*samples, {"image": samples[0]["image"].copy()}]
        outlier[-1]["image"][0, 0, 5, 5] = 40
        target = static(source, tmp_path / "q.onnx", outlier, calibration=method, percentile=99)

        model = onnx.load(target)
        name = next(node.input[1] for node in model.graph.node if node.op_type == "QuantizeLinear")
        scale = next(numpy_helper.to_array(one) for one in model.graph.initializer if one.name == name)
        assert float(scale) * 255 == pytest.approx(40, abs=1) if method == "minmax" else scale * 255 < 5
        assert method == "minmax" or accuracy(target) >= 0.97

    @pytest.mark.parametrize(("io", "kind", "signed"), [("int8", "INT8", True), ("uint8", "UINT8", False)])
    def test_ends_can_be_integers(self, source, samples, tmp_path: Path, io, kind: str, signed: bool) -> None:
        target = static(source, tmp_path / "q.onnx", samples, signed, io=io)

        engine = OnnxEngine.load(target, EngineSettings())
        assert [(spec.name, spec.datatype) for spec in (*engine.inputs, *engine.outputs)] == [
            ("image", kind),
            ("scores", kind),
        ]
        assert boundary.io_parameters(target).keys() == {"image", "scores"}
        assert accuracy(target) >= 0.97

    @pytest.mark.parametrize("layer", ["Conv_0", "Gemm_4"])
    @pytest.mark.parametrize(("io", "signed"), [("int8", True), ("uint8", False)])
    def test_ends_are_integers_beside_a_float_layer_too(
        self, source, samples, tmp_path, layer, io, signed
    ) -> None:
        target = static(source, tmp_path / "q.onnx", samples, signed, io=io, exclude=(layer,))

        onnx_model.read(target)
        engine = OnnxEngine.load(target, EngineSettings())
        assert {spec.datatype for spec in (*engine.inputs, *engine.outputs)} == {io.upper()}
        assert boundary.io_parameters(target).keys() == {"image", "scores"}
        assert accuracy(target) >= 0.97

    def test_ends_that_are_used_inside_too_are_integers(self, tmp_path: Path) -> None:
        path = reused(tmp_path / "reused.onnx")
        inputs = [{"image": np.random.default_rng(i).normal(size=(1, 16)).astype(np.float32)} for i in range(9)]

        for exclude in ((), ("first",), ("second",)):
            target = static(path, tmp_path / "q.onnx", inputs, True, io="int8", exclude=exclude)
            engine, parameters = OnnxEngine.load(target, EngineSettings()), boundary.io_parameters(target)
            fed = boundary.to_integers(inputs[0], engine.inputs, parameters)
            scores = boundary.to_floats(engine.run(fed), parameters)["scores"]
            wanted = OnnxEngine.load(path, EngineSettings()).run(inputs[0])["scores"]
            assert np.abs(scores - wanted).max() < 0.05 * np.abs(wanted).max()

    def test_excluded_layer_stays_in_float_with_what_follows(self, source, samples, tmp_path: Path) -> None:
        target = static(source, tmp_path / "q.onnx", samples, exclude=("Conv*",))

        kinds = [kind for kind in kinds_of(target) if kind != "DequantizeLinear"]
        assert kinds == ["Conv", "Relu", "MaxPool", "Flatten", "QuantizeLinear", "Gemm", "QuantizeLinear"]

    def test_fused_layer_is_excluded_by_the_name_it_had(self, tmp_path: Path) -> None:
        path = added(tmp_path / "model.onnx")
        inputs = [{"image": np.random.default_rng(i).normal(size=(1, 16)).astype(np.float32)} for i in range(9)]

        plain = static(path, tmp_path / "plain.onnx", inputs)
        kept = static(path, tmp_path / "kept.onnx", inputs, exclude=("first",))

        assert kinds_of(plain).count("Gemm") == kinds_of(kept).count("Gemm") == 2
        assert kinds_of(plain).count("QuantizeLinear") > kinds_of(kept).count("QuantizeLinear")
        assert kinds_of(kept)[0] == "DequantizeLinear"
        stored = {tensor.name for tensor in onnx.load(kept).graph.initializer}
        assert {"matrix_0", "matrix_1_quantized"} <= stored

    def test_processing_is_never_quantized(self, samples, tmp_path: Path) -> None:
        model = onnx.load(convertible.write_onnx(tmp_path / "m.onnx", convertible.fitted()))
        model.graph.node[0].input[0] = "scaled"
        model.graph.initializer.append(numpy_helper.from_array(np.float32(1 / 255), "factor"))
        scale = helper.make_node("Mul", ["image", "factor"], ["scaled"], name="preprocess/scale")
        model.graph.node.insert(0, scale)
        path = tmp_path / "scaled.onnx"
        path.write_bytes(model.SerializeToString())
        wide = [{"image": 255 * sample["image"]} for sample in samples]

        graph = onnx.load(static(path, tmp_path / "q.onnx", wide)).graph

        node = next(node for node in graph.node if node.op_type == "Mul")
        assert list(node.input) == ["image", "factor"]

    def test_whole_tensors_can_share_a_scale(self, source, samples, tmp_path: Path) -> None:
        sizes = {}
        for per_channel in (True, False):
            path = static(source, tmp_path / "q.onnx", samples, per_channel=per_channel)
            stored = {one.name: numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer}
            sizes[per_channel] = stored["filters_scale"].size
        assert sizes == {True: convertible.FILTERS, False: 1}

    def test_masks_of_infinity_stay_in_float(self, tmp_path: Path) -> None:
        path = masked(tmp_path / "masked.onnx")
        inputs = [{"image": np.random.default_rng(i).normal(size=(1, 4)).astype(np.float32)} for i in range(9)]

        engine = OnnxEngine.load(static(path, tmp_path / "q.onnx", inputs), EngineSettings())

        scores = engine.run(inputs[0])["scores"]
        assert scores[0, 3] == 0
        assert scores.sum() == pytest.approx(1, abs=0.02)

    def test_ranges_are_kept_for_the_next_time(self, source, samples, tmp_path: Path) -> None:
        kept = tmp_path / "ranges.json"
        results = []
        for given in (samples, []):
            target = tmp_path / "q.onnx"
            quantize_onnx.quantize_static(source, target, given, signed_activations=True, ranges=kept)
            results.append(target.read_bytes())
        assert results[0] == results[1]

    def test_nan_in_a_sample_is_named(self, source, samples, tmp_path: Path) -> None:
        bad = [*samples, {"image": np.full((1, 1, 12, 12), np.nan, np.float32)}]
        with pytest.raises(ConversionError, match="sample 40 makes tensor 'image' NaN"):
            static(source, tmp_path / "q.onnx", bad)

    def test_wrong_shape_is_one_sentence(self, source, tmp_path: Path) -> None:
        with pytest.raises(ConversionError, match="ONNX Runtime cannot make the int8 variant") as caught:
            static(source, tmp_path / "q.onnx", [{"image": np.zeros((1, 3, 5, 5), np.float32)}])
        assert "\n" not in str(caught.value)


def test_dynamic_takes_exclusions_and_scales_per_tensor(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "d.onnx"
    quantize_onnx.quantize_dynamic(source, target)
    assert "MatMulInteger" in kinds_of(target)

    quantize_onnx.quantize_dynamic(source, target, QuantizeSettings(exclude=("Gemm_4",)))
    assert "MatMulInteger" not in kinds_of(target)


def test_nothing_is_left_in_the_working_folder(source, samples, tmp_path: Path, monkeypatch) -> None:
    place, temporary = tmp_path / "cwd", tmp_path / "tmp"
    place.mkdir()
    temporary.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    invalid = convertible.save_onnx(
        tmp_path / "bad.onnx", [helper.make_node("MatMul", ["image", "w"], ["scores"])],
        {"w": np.ones((3, 3), np.float32)}, [1, 4], [1, 3],
    )  # fmt: skip

    static(source, tmp_path / "q.onnx", samples)
    quantize_onnx.quantize_half(source, tmp_path / "h.onnx")
    with pytest.raises(ConversionError):
        static(invalid, tmp_path / "q.onnx", [{"image": np.zeros((1, 4), np.float32)}])
    with pytest.raises(ConversionError):
        static(source, tmp_path / "q.onnx", [{"image": np.zeros((1, 3, 5, 5), np.float32)}])

    assert [*place.iterdir(), *temporary.iterdir()] == []


_TWICE = """
import sys, numpy as np
from pathlib import Path
from converters.quantize import onnx
from converters.quantize.settings import QuantizeSettings
source, target = map(Path, sys.argv[1:])
random = np.random.default_rng(0)
samples = [{"image": random.random((1, 1, 12, 12), dtype=np.float32)} for _ in range(9)]
onnx.quantize_static(source, target, samples, signed_activations=True,
                     settings=QuantizeSettings(calibration="entropy", io="int8"))
onnx.quantize_half(source, target.with_suffix(".half"))
onnx.quantize_dynamic(source, target.with_suffix(".dynamic"))
"""


@pytest.mark.slow
def test_bytes_are_the_same_in_another_process(source: Path, tmp_path: Path) -> None:
    digests = set()
    for seed in ("1", "2"):
        folder = tmp_path / seed
        folder.mkdir()
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", _TWICE, str(source), str(folder / "q.onnx")]
        subprocess.run(command, check=True, env=environment, cwd=folder, capture_output=True)
        contents = [path.read_bytes() for path in sorted(folder.iterdir())]
        assert len(contents) == 3
        digests.add(hashlib.sha256(b"".join(contents)).hexdigest())
    assert len(digests) == 1


def added(path: Path) -> Path:
    """Write two layers of MatMul and Add, which onnxruntime fuses into Gemm."""
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["image", "matrix_0"], ["p0"], name="first"),
        helper.make_node("Add", ["p0", "bias_0"], ["s0"], name="first_bias"),
        helper.make_node("MatMul", ["s0", "matrix_1"], ["p1"], name="second"),
        helper.make_node("Add", ["p1", "bias_1"], ["scores"], name="second_bias"),
    ]
    constants = {f"matrix_{i}": random.normal(size=(16, 16)).astype(np.float32) for i in range(2)}
    constants |= {f"bias_{i}": random.normal(size=16).astype(np.float32) for i in range(2)}
    return convertible.save_onnx(path, nodes, constants, ["n", 16], ["n", 16])


def reused(path: Path) -> Path:
    """Write two layers whose input is added again at the end."""
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["image", "matrix_0"], ["hidden"], name="first"),
        helper.make_node("MatMul", ["hidden", "matrix_1"], ["product"], name="second"),
        helper.make_node("Add", ["product", "image"], ["scores"], name="sum"),
    ]
    constants = {f"matrix_{i}": random.normal(size=(16, 16)).astype(np.float32) for i in range(2)}
    return convertible.save_onnx(path, nodes, constants, ["n", 16], ["n", 16])


def masked(path: Path) -> Path:
    """Write a layer whose last answer is masked out by minus infinity before a softmax."""
    nodes = [
        helper.make_node("MatMul", ["image", "matrix"], ["product"], name="layer"),
        helper.make_node("Add", ["product", "mask"], ["hidden"], name="masking"),
        helper.make_node("Softmax", ["hidden"], ["scores"], name="softmax"),
    ]
    mask = np.float32([0, 0, 0, -np.inf])
    return convertible.save_onnx(
        path, nodes, {"matrix": np.eye(4, dtype=np.float32), "mask": mask}, [1, 4], [1, 4]
    )


def late(path: Path) -> Path:
    """Write a model whose If reads in its branches what takes more nodes than its condition."""
    shape = ["n", 4]

    def branch(operator: str, name: str) -> onnx.GraphProto:
        output = helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        return helper.make_graph([helper.make_node(operator, ["late"], [name])], name, [], [output])

    branches = {"then_branch": branch("Identity", "yes"), "else_branch": branch("Neg", "no")}
    nodes = [
        helper.make_node("ReduceSum", ["image"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node("MatMul", ["image", "matrix"], ["first"]),
        helper.make_node("MatMul", ["first", "matrix"], ["second"]),
        helper.make_node("Sigmoid", ["second"], ["late"]),
        helper.make_node("If", ["positive"], ["chosen"], **branches),
        helper.make_node("MatMul", ["chosen", "matrix"], ["scores"]),
    ]
    constants = {"matrix": np.eye(4, dtype=np.float32), "zero": np.float32(0)}
    return convertible.save_onnx(path, nodes, constants, shape, shape)


def branching(path: Path) -> Path:
    """Write a model that gives `image` back if its sum is positive, else `image` plus one."""
    shape = ["n", 4]
    yes = helper.make_graph(
        [helper.make_node("MatMul", ["product", "matrix"], ["same"])],
        "yes",
        [],
        [helper.make_tensor_value_info("same", TensorProto.FLOAT, shape)],
    )
    no = helper.make_graph(
        [helper.make_node("Add", ["product", "ones"], ["more"])],
        "no",
        [],
        [helper.make_tensor_value_info("more", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.ones(4, np.float32), "ones")],
    )
    nodes = [
        helper.make_node("MatMul", ["image", "matrix"], ["product"]),
        helper.make_node("ReduceSum", ["product"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["scores"], then_branch=yes, else_branch=no),
    ]
    constants = {"matrix": np.eye(4, dtype=np.float32), "zero": np.float32(0)}
    return convertible.save_onnx(path, nodes, constants, shape, shape)
