import json
import platform
import tempfile
from pathlib import Path

import numpy as np
import pytest

from converters import Package, convert
from converters.errors import ConversionError, DataError, GateError
from converters.package import plain_blob, read_manifest
from converters.quantize import onnx as quantize_onnx
from converters.quantize.settings import QuantizeSettings
from edge_agent.documents.errors import ModelError, NotFoundError, RequestError
from edge_agent.documents.manifest import Manifest, Variant, blob_path
from edge_agent.documents.settings import EngineSettings
from edge_agent.engines import base
from support import convertible


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def by_precision(manifest: Manifest) -> dict[str, Variant]:
    return {variant.precision: variant for variant in manifest.variants}


def check_golden(package: Package, variant: Variant) -> None:
    """Do what a device's probe does: every golden sample within the tolerances."""
    manifest = package.manifest
    assert manifest.golden is not None
    settings = EngineSettings(tflite_runtime="ai-edge-litert")
    golden_file = package.folder / blob_path(manifest.golden.file.sha256)
    with tempfile.TemporaryDirectory() as folder, np.load(golden_file, allow_pickle=False) as golden:
        model = plain_blob(package.folder, variant.file, Path(folder, "model"))
        engine = base.find(variant.engine).load(model, settings)
        for index in range(manifest.golden.samples):
            inputs = {spec.name: golden[f"{index}/input/{spec.name}"] for spec in manifest.inputs}
            for name, got in engine.run(inputs).items():
                want = golden[f"{index}/output/{name}"]
                assert np.abs(got - want).max() <= variant.tolerances[name].atol


class TestMagika:
    @pytest.fixture(scope="class")
    @classmethod
    def package(cls, tmp_path_factory: pytest.TempPathFactory) -> Package:
        return convert(
            convertible.magika(),
            name="magika",
            version="1",
            out=tmp_path_factory.mktemp("out"),
            ranges={"bytes": (0, 256)},
            samples=30,
        )

    def test_both_default_variants_pass(self, package: Package) -> None:
        variants = by_precision(package.manifest)

        assert variants.keys() == {"fp32", "dynamic"}
        assert variants["dynamic"].file.size_bytes < variants["fp32"].file.size_bytes
        assert variants["dynamic"].requires.runtimes == ("onnxruntime",)
        assert variants["fp32"].metrics["agreement"] == 1.0

    def test_float_variant_is_the_source_itself(self, package: Package) -> None:
        sha256 = by_precision(package.manifest)["fp32"].file.sha256

        assert (package.folder / blob_path(sha256)).read_bytes() == convertible.magika().read_bytes()
        assert package.manifest.source.sha256 == sha256

    def test_golden_samples_pass_as_on_a_device(self, package: Package) -> None:
        assert package.manifest.golden is not None
        assert package.manifest.golden.samples == 8
        for variant in package.manifest.variants:
            check_golden(package, variant)

    def test_manifest_on_disk_is_the_one_returned(self, package: Package) -> None:
        assert read_manifest(package.folder) == package.manifest
        assert [spec.name for spec in package.manifest.inputs] == ["bytes"]
        assert package.manifest.inputs[0].shape == (-1, 2048)


class TestOnnxInt8:
    @pytest.fixture(scope="class")
    @classmethod
    def package(cls, models, tmp_path_factory: pytest.TempPathFactory) -> Package:
        labels = tmp_path_factory.mktemp("labels") / "labels.txt"
        labels.write_text("row\ncolumn\ndiagonal\nsquare\n")
        return convert(
            models.onnx,
            precision=["int8", "fp32"],
            data=models.onnx_data,
            labels=labels,
            out=tmp_path_factory.mktemp("out"),
        )

    def test_there_is_a_variant_for_each_architecture(self, package: Package) -> None:
        int8 = [variant for variant in package.manifest.variants if variant.precision == "int8"]

        assert [variant.requires.architectures for variant in int8] == [("x86_64",), ("aarch64",)]

    def test_only_this_architecture_is_timed(self, package: Package) -> None:
        for row in package.rows:
            here = row.architectures in ((), (platform.machine(),))
            assert (row.latency_ms is not None) == here

    def test_accuracy_is_measured_on_samples_that_did_not_calibrate(self, package: Package) -> None:
        assert package.manifest.metadata["evaluation"]["samples"] == 60
        assert package.manifest.metadata["float"]["accuracy"] >= 0.95
        assert all(variant.metrics["accuracy"] >= 0.94 for variant in package.manifest.variants)

    def test_every_calibration_sample_counts(self, models, tmp_path: Path) -> None:
        """The widest sample sets the range wherever it stands."""
        drawn = convertible.images(64).pixels[:, None]
        ranges = set()
        for scale_of_first in (1.0, 50.0):
            samples = [{"image": image[None]} for image in drawn]
            samples[0] = {"image": samples[0]["image"] * np.float32(scale_of_first)}
            target = tmp_path / "int8.onnx"
            quantize_onnx.quantize_static(models.onnx, target, samples, signed_activations=False)
            ranges.add(target.read_bytes())
        assert len(ranges) == 2

    def test_product_and_sum_that_get_fused_are_quantized(self, tmp_path: Path) -> None:
        from onnx import helper

        random = np.random.default_rng(0)
        nodes = [
            helper.make_node("MatMul", ["image", "matrix"], ["product"]),
            helper.make_node("Add", ["product", "bias"], ["scores"]),
        ]
        constants = {
            "matrix": random.normal(size=(16, 4)).astype(np.float32),
            "bias": random.normal(size=(1, 4)).astype(np.float32),
        }
        model = convertible.save_onnx(tmp_path / "model.onnx", nodes, constants, ["n", 16], ["n", 4])
        data = {"image": random.normal(size=(40, 16)).astype(np.float32)}

        package = convert(model, precision=["int8"], data=data, max_drop=5, out=tmp_path / "out")

        assert len(package.manifest.variants) == 2

    def test_labels_and_golden_samples(self, package: Package) -> None:
        assert package.manifest.labels == ("row", "column", "diagonal", "square")
        for variant in package.manifest.variants:
            check_golden(package, variant)


class TestTflite:
    @pytest.fixture(scope="class")
    @classmethod
    def package(cls, models, tmp_path_factory: pytest.TempPathFactory) -> Package:
        return convert(
            models.tflite,
            precision=["fp32", "fp16", "dynamic", "int8"],
            data=models.tflite_data,
            out=tmp_path_factory.mktemp("out"),
        )

    def test_all_precisions_keep_the_signature(self, package: Package) -> None:
        assert by_precision(package.manifest).keys() == {"fp32", "fp16", "dynamic", "int8"}
        assert [(spec.name, spec.datatype) for spec in package.manifest.outputs] == [("scores", "FP32")]
        for variant in package.manifest.variants:
            check_golden(package, variant)

    def test_quantized_files_are_smaller(self, package: Package) -> None:
        sizes = {name: variant.file.kept_size_bytes for name, variant in by_precision(package.manifest).items()}

        assert sizes["dynamic"] < sizes["fp16"] < sizes["fp32"]
        assert sizes["int8"] < sizes["fp16"]

    def test_runtime_that_is_silently_wrong_is_not_offered_the_variant(self, package: Package) -> None:
        variants = by_precision(package.manifest)

        assert variants["fp32"].requires.runtimes == ("ai-edge-litert", "tflite-runtime")
        assert variants["int8"].requires.runtimes == ("ai-edge-litert", "tflite-runtime")
        # tflite-runtime 2.14 runs per-channel dynamic models without an error and wrong.
        row = next(row for row in package.rows if row.method == "tflite-dynamic")
        assert row.runtimes == ("ai-edge-litert",)
        assert "tflite-runtime 2.14.0 gets it wrong" in row.reason

    def test_runtime_that_got_it_wrong_is_offered_one_that_it_gets_right(self, package: Package) -> None:
        row = next(row for row in package.rows if row.method == "tflite-dynamic-tensorwise")

        assert row.packaged
        assert row.runtimes == ("tflite-runtime",)
        assert row.agreement is not None
        assert row.agreement >= 0.97

    def test_float16_source_in_the_old_form_is_quantized_too(self, models, tmp_path: Path) -> None:
        package = convert(models.half_tflite, data=models.tflite_data, out=tmp_path / "out")

        variants = by_precision(package.manifest)
        assert variants.keys() == {"fp16", "dynamic"}
        assert variants["dynamic"].file.size_bytes < variants["fp16"].file.size_bytes
        assert variants["dynamic"].metrics["accuracy"] >= 0.95

    def test_streaming_int8_model_is_packaged_as_it_is(self, tmp_path: Path) -> None:
        package = convert(convertible.okay_nabu(), out=tmp_path / "out", samples=20)

        assert package.manifest.name == "okay-nabu"
        assert [variant.precision for variant in package.manifest.variants] == ["int8"]
        assert package.manifest.source.sha256 == package.manifest.variants[0].file.kept_sha256
        assert package.manifest.variants[0].file.compression == "zstd"
        check_golden(package, package.manifest.variants[0])
        assert "quantized already" in package.notes[0]


class TestReproducible:
    def test_same_inputs_and_version_give_the_same_bytes(
        self, models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SOURCE_DATE_EPOCH", "1767225600")
        first, second = (
            convert(
                models.onnx,
                version="1",
                precision=["dynamic", "int8"],
                data=models.onnx_data,
                out=tmp_path / out,
            )
            for out in ("a", "b")
        )

        assert files_of(first.folder) == files_of(second.folder)
        assert first.manifest.timestamp.isoformat() == "2026-01-01T00:00:00+00:00"

    def test_building_the_same_again_changes_nothing(self, models, tmp_path: Path) -> None:
        out = tmp_path / "out"
        first = convert(models.tflite, version="1", precision=["fp32"], out=out, samples=10)
        before = files_of(out)

        again = convert(models.tflite, version="1", precision=["fp32"], out=out, samples=10)

        assert first.is_new
        assert not again.is_new
        assert files_of(out) == before

    def test_other_content_under_the_same_version_is_refused(self, models, tmp_path: Path) -> None:
        out = tmp_path / "out"
        convert(models.tflite, version="1", precision=["fp32"], out=out, samples=10)
        before = files_of(out)

        with pytest.raises(RequestError, match="another package of this name and version"):
            convert(models.tflite, version="1", precision=["fp16"], out=out, samples=10)

        assert files_of(out) == before


class TestGate:
    def test_variant_that_was_asked_for_and_fails_leaves_nothing(self, models, tmp_path: Path) -> None:
        out = tmp_path / "out"

        with pytest.raises(GateError, match=r"No variant is good enough: onnx int8: it has .* 100 allowed"):
            convert(models.onnx, precision=["int8"], data=models.onnx_data, max_size_bytes=100, out=out)

        assert not out.exists()

    def test_default_variant_that_fails_is_left_out_and_named(self, models, tmp_path: Path) -> None:
        package = convert(models.tflite, max_drop=0, out=tmp_path / "out", samples=10)

        assert [variant.precision for variant in package.manifest.variants] == ["fp32"]
        left_out = next(row for row in package.rows if not row.packaged)
        assert left_out.precision == "dynamic"
        assert "points of agreement" in left_out.reason

    def test_nothing_to_quantize_is_said_and_skipped(self, tmp_path: Path) -> None:
        model = _elementwise(tmp_path)

        package = convert(model, out=tmp_path / "out", samples=10)

        assert [variant.precision for variant in package.manifest.variants] == ["fp32"]
        assert "no MatMul or Gemm" in package.rows[-1].reason


class TestRefusals:
    """Each is one sentence, and nothing is left behind."""

    @pytest.fixture(autouse=True)
    def nothing_left(self, tmp_path: Path):
        yield
        assert not (tmp_path / "out").exists()

    def refused(self, tmp_path: Path, error: type[Exception], match: str, *args, **kwargs) -> None:
        with pytest.raises(error, match=match) as caught:
            convert(*args, out=tmp_path / "out", samples=10, **kwargs)
        assert "\n" not in str(caught.value)

    def test_file_that_does_not_exist(self, tmp_path: Path) -> None:
        self.refused(tmp_path, NotFoundError, "does not exist", tmp_path / "none.onnx")

    @pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 64])
    def test_file_that_is_no_model(self, tmp_path: Path, content: bytes) -> None:
        model = tmp_path / "model.onnx"
        model.write_bytes(content)
        self.refused(tmp_path, ModelError, "is (empty|neither an ONNX nor a TFLite model)", model)

    @pytest.mark.parametrize("share", [0.3, 0.9])
    def test_truncated_onnx(self, models, tmp_path: Path, share: float) -> None:
        model = tmp_path / "model.onnx"
        content = models.onnx.read_bytes()
        model.write_bytes(content[: int(share * len(content))])
        self.refused(tmp_path, ModelError, "truncated|not a valid ONNX model", model)

    @pytest.mark.parametrize("share", [0.3, 0.9])
    def test_truncated_tflite(self, models, tmp_path: Path, share: float) -> None:
        model = tmp_path / "model.tflite"
        content = models.tflite.read_bytes()
        model.write_bytes(content[: int(share * len(content))])
        self.refused(tmp_path, ModelError, "truncated or damaged|TFLite cannot load", model)

    def test_external_data(self, models, tmp_path: Path) -> None:
        import onnx

        model = tmp_path / "model.onnx"
        proto = onnx.load(str(models.onnx))
        onnx.save(proto, str(model), save_as_external_data=True, location="weights.bin", size_threshold=0)
        self.refused(tmp_path, ModelError, "external data", model)

    def test_data_of_a_wrong_shape(self, models, tmp_path: Path) -> None:
        self.refused(
            tmp_path,
            DataError,
            r"should be \[samples, 1, 12, 12\]; the data has \[9, 3, 12, 12\]",
            models.onnx,
            data={"image": np.zeros((9, 3, 12, 12), np.float32)},
        )

    def test_too_few_samples_for_int8(self, models, tmp_path: Path) -> None:
        self.refused(
            tmp_path,
            DataError,
            "holds 9 samples; int8 needs at least 16",
            models.onnx,
            precision=["int8"],
            data={"image": np.zeros((9, 1, 12, 12), np.float32)},
        )

    def test_int8_without_data(self, models, tmp_path: Path) -> None:
        self.refused(tmp_path, RequestError, "needs samples", models.onnx, precision=["int8"])

    def test_unknown_precision(self, models, tmp_path: Path) -> None:
        self.refused(tmp_path, RequestError, "no precision 'int7'", models.onnx, precision=["int7"])

    def test_precision_that_onnx_cannot_have(self, models, tmp_path: Path) -> None:
        self.refused(tmp_path, ConversionError, "from TFLite only", models.onnx, precision=["int16x8"])

    def test_quantizing_a_quantized_model(self, tmp_path: Path) -> None:
        self.refused(
            tmp_path, ConversionError, "quantized already", convertible.okay_nabu(), precision=["dynamic"]
        )

    def test_names_that_cannot_be(self, models, tmp_path: Path) -> None:
        self.refused(tmp_path, RequestError, "cannot be a name", models.onnx, name="Not OK")
        self.refused(tmp_path, RequestError, "cannot be a version", models.onnx, version="a/b")

    def test_classes_that_the_model_does_not_have(self, models, tmp_path: Path) -> None:
        images = np.zeros((8, 1, 12, 12), np.float32)
        data = {"image": images, "y": np.arange(8)}
        self.refused(tmp_path, DataError, "go from 0 to 7, but output 'scores' has 4", models.onnx, data=data)
        self.refused(tmp_path, RequestError, "2 class names", models.onnx, labels=["a", "b"])

    def test_order_of_a_precision_that_is_not_made(self, models, tmp_path: Path) -> None:
        self.refused(tmp_path, RequestError, "--order names 'int8'", models.onnx, order=["int8"])

    def test_model_that_draws_random_numbers(self, tmp_path: Path) -> None:
        from onnx import helper

        model = convertible.save_onnx(
            tmp_path / "model.onnx",
            [
                helper.make_node("RandomNormalLike", ["image"], ["noise"]),
                helper.make_node("Add", ["image", "noise"], ["scores"]),
            ],
            {},
            [1, 4],
            [1, 4],
        )
        self.refused(tmp_path, ModelError, "draws random numbers", model)

    def test_model_whose_answers_are_not_finite(self, tmp_path: Path) -> None:
        from onnx import helper

        model = convertible.save_onnx(
            tmp_path / "model.onnx",
            [
                helper.make_node("Sub", ["image", "image"], ["zero"]),
                helper.make_node("Div", ["zero", "zero"], ["scores"]),
            ],
            {},
            [1, 4],
            [1, 4],
        )
        self.refused(tmp_path, ConversionError, "NaN or infinity to every sample", model)

    def test_inputs_that_generated_integers_do_not_suit(self, tmp_path: Path) -> None:
        model = _gather(tmp_path)
        self.refused(tmp_path, ConversionError, "--range NAME=LOW:HIGH", model)

        package = convert(model, ranges={"tokens": (0, 9)}, out=tmp_path / "packages", samples=10)
        assert len(package.manifest.variants) >= 1


def _elementwise(folder: Path) -> Path:
    from onnx import helper

    node = helper.make_node("Sigmoid", ["image"], ["scores"])
    return convertible.save_onnx(folder / "model.onnx", [node], {}, ["n", 4], ["n", 4])


def _gather(folder: Path) -> Path:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    table = np.linspace(0, 1, 40, dtype=np.float32).reshape(10, 4)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "tokens"], ["scores"])],
        "model",
        [helper.make_tensor_value_info("tokens", TensorProto.INT64, [1, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 3, 4])],
        [numpy_helper.from_array(table, "table")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / "gather.onnx"
    onnx.save(model, str(path))
    return path


def test_package_as_json_is_plain(models, tmp_path: Path) -> None:
    package = convert(models.tflite, precision=["fp32"], out=tmp_path / "out", samples=10)

    plain = json.loads(json.dumps(package.as_json()))

    assert plain["variants"][0]["precision"] == "fp32"
    assert plain["variants"][0]["packaged"] is True


class TestArguments:
    def test_what_a_program_says_is_checked_too(self, models, tmp_path: Path) -> None:
        for wrong, said in (
            (
                {"quantize": QuantizeSettings(percentile=0.99)},
                r"convert\(\): quantize.percentile: input",
            ),
            ({"min_agreement": 99}, r"gate.min_agreement: input should be less than or equal to 1"),
            ({"samples": 0}, r"generate.samples: input should be greater than or equal to 1"),
        ):
            with pytest.raises(RequestError, match=said):
                convert(models.onnx, out=tmp_path / "out", **wrong)
        assert not (tmp_path / "out").exists()

    def test_one_word_is_one_precision(self, models, tmp_path: Path) -> None:
        package = convert(models.onnx, precision="fp32", samples=10, out=tmp_path / "out")

        assert [one.precision for one in package.manifest.variants] == ["fp32"]

    def test_integers_need_the_precision_that_has_them(self, models, tmp_path: Path) -> None:
        with pytest.raises(RequestError, match="ask for --precision int8 alone"):
            convert(
                models.onnx, data=models.onnx_data, quantize=QuantizeSettings(io="int8"), out=tmp_path / "out"
            )

    def test_variant_that_the_metric_fails_on_is_left_out(self, models, tmp_path: Path) -> None:
        calls = []

        def fails_on_the_second(answers, targets) -> float:
            calls.append(len(calls))
            if len(calls) > 1:
                raise ValueError("no")
            return 1.0

        with pytest.raises(GateError, match="No variant is good enough: onnx dynamic: onnxruntime: "):
            convert(
                models.onnx,
                precision=["dynamic"],
                data=models.onnx_data,
                metric=fails_on_the_second,
                max_drop=50,
                out=tmp_path / "out",
            )
        assert not (tmp_path / "out").exists()
