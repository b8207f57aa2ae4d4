import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from converters.arrays import Array
from converters.errors import ConversionError
from converters.frameworks import torch as framework
from converters.frameworks.base import Training
from converters.frameworks.registry import find
from converters.frameworks.silence import silenced
from converters.prune.settings import PruneSettings
from converters.terms import Origin
from edge_agent.documents.errors import EdgeAgentError, ModelError, NotFoundError, RequestError
from edge_agent.documents.settings import EngineSettings
from edge_agent.engines.onnx import OnnxEngine
from edge_agent.engines.tflite import TfliteEngine
from support import torch_models
from support.torch_models import floats, seeded

SETTINGS = EngineSettings(tflite_runtime="ai-edge-litert")

CASES = {
    "cnn": (torch_models.Cnn, {"image": floats(2, 1, 8, 8)}, ("output",)),
    "mlp": (torch_models.mlp, {"input": floats(2, 4)}, ("output",)),
    "two inputs": (
        torch_models.TwoInputs,
        {"right": floats(2, 5), "left": floats(2, 3)},
        ("output_0", "output_1"),
    ),
    "dictionary": (torch_models.Recurrent, {"samples": floats(2, 5, 3)}, ("logits", "mean")),
    "conv1d": (torch_models.conv1d, {"input": floats(2, 3, 20)}, ("output",)),
    "tokens": (
        torch_models.Tokens,
        {"tokens": np.arange(12, dtype=np.int64).reshape(2, 6) % 10},
        ("output_0", "output_1"),
    ),
}


def answers(model: nn.Module, inputs: dict[str, Array]) -> list[Array]:
    with torch.no_grad():
        out = model.eval()(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    values = out.values() if isinstance(out, dict) else out if isinstance(out, tuple) else [out]
    return [value.numpy() for value in values]


def write_program(path: Path, *, batch: bool = True, model: nn.Module | None = None) -> Path:
    image = torch.from_numpy(floats(2 if batch else 1, 1, 8, 8))
    free = ({0: torch.export.Dim("rows")},) if batch else None
    with silenced():
        program = torch.export.export(model or seeded(torch_models.Cnn).eval(), (image,), dynamic_shapes=free)
        torch.export.save(program, path)
    return path


@pytest.fixture(autouse=True)
def imports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no folder of one test stay on the path of imports."""
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.mark.parametrize(("make", "example", "outputs"), CASES.values(), ids=CASES)
class TestExport:
    def test_onnx_answers_like_torch_for_any_batch(self, make, example, outputs, tmp_path: Path) -> None:
        model = seeded(make)

        framework.export(model, "onnx", tmp_path / "m.onnx", example)

        engine = OnnxEngine.load(tmp_path / "m.onnx", SETTINGS)
        assert {spec.name for spec in engine.inputs} == example.keys()
        assert tuple(spec.name for spec in engine.outputs) == outputs
        assert {spec.shape[0] for spec in (*engine.inputs, *engine.outputs)} == {-1}
        for count in (1, 2, 5):
            inputs = {name: np.concatenate([array] * 3)[:count] for name, array in example.items()}
            for got, want in zip(engine.run(inputs).values(), answers(model, inputs), strict=True):
                np.testing.assert_allclose(got, want, atol=1e-5)

    def test_tflite_answers_like_torch_for_one_sample(self, make, example, outputs, tmp_path: Path) -> None:
        model = seeded(make)

        framework.export(model, "tflite", tmp_path / "m.tflite", example)

        engine = TfliteEngine.load(tmp_path / "m.tflite", SETTINGS)
        order = list(framework.input_names(model))
        assert [spec.name for spec in engine.inputs] == order
        assert tuple(spec.name for spec in engine.outputs) == outputs
        inputs = {name: array[:1] for name, array in example.items()}
        for got, want in zip(engine.run(inputs).values(), answers(model, inputs), strict=True):
            assert got.dtype == want.dtype
            np.testing.assert_allclose(got, want, atol=1e-5)


class TestFiles:
    def test_onnx_is_one_file_without_the_exporter_s_paths(self, tmp_path: Path) -> None:
        framework.export(seeded(torch_models.Cnn), "onnx", tmp_path / "m.onnx", {"image": floats(2, 1, 8, 8)})

        assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
        model = onnx.load(tmp_path / "m.onnx")
        onnx.checker.check_model(model, full_check=True)
        assert model.opset_import[0].version >= 18
        assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
        assert b"site-packages" not in (tmp_path / "m.onnx").read_bytes()
        assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"

    def test_tflite_calls_layers_as_torch_does(self, tmp_path: Path) -> None:
        framework.export(
            seeded(torch_models.Cnn), "tflite", tmp_path / "m.tflite", {"image": floats(2, 1, 8, 8)}
        )

        content = (tmp_path / "m.tflite").read_bytes()
        assert b"hidden" in content
        assert b"depthwise" in content
        assert b"Positional" not in content

    def test_model_stays_as_it_was(self, tmp_path: Path) -> None:
        model = seeded(torch_models.Cnn).train()
        model.norm.eval()
        before = {name: value.clone() for name, value in model.state_dict().items()}

        for target_format in ("onnx", "tflite"):
            framework.export(model, target_format, tmp_path / "m", {"image": floats(2, 1, 8, 8)})

        assert model.training
        assert model.conv.training
        assert not model.norm.training
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert all(parameter.requires_grad for parameter in model.parameters())

    def test_nothing_is_printed_or_left_behind(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "temporary").mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
        monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
        for target_format in ("onnx", "tflite"):
            framework.export(seeded(torch_models.mlp), target_format, tmp_path / "m", {"input": floats(2, 4)})

        assert capfd.readouterr() == ("", "")
        assert not list((tmp_path / "temporary").iterdir())

    def test_half_and_double_models_become_float32(self, tmp_path: Path) -> None:
        model = seeded(torch_models.mlp).half()

        framework.export(model, "onnx", tmp_path / "m.onnx", {"input": floats(2, 4).astype(np.float64)})

        engine = OnnxEngine.load(tmp_path / "m.onnx", SETTINGS)
        assert [spec.datatype for spec in (*engine.inputs, *engine.outputs)] == ["FP32", "FP32"]
        assert next(model.parameters()).dtype == torch.float16

    def test_model_that_fixes_its_batch_gets_a_batch_of_one(self, tmp_path: Path) -> None:
        framework.export(torch_models.OneSample(), "onnx", tmp_path / "m.onnx", {"sample": floats(2, 3)})

        engine = OnnxEngine.load(tmp_path / "m.onnx", SETTINGS)
        assert engine.inputs[0].shape == (1, 3)

    def test_optional_input_is_there_when_data_has_it(self, tmp_path: Path) -> None:
        model = seeded(torch_models.TwoInputs)
        example = {"left": floats(2, 3), "right": floats(2, 5), "scale": floats(2, 1)}

        framework.export(model, "onnx", tmp_path / "m.onnx", example)

        engine = OnnxEngine.load(tmp_path / "m.onnx", SETTINGS)
        assert framework.input_names(model) == ("left", "right")
        assert [spec.name for spec in engine.inputs] == ["left", "right", "scale"]
        np.testing.assert_allclose(engine.run(example)["output_0"], answers(model, example)[0], atol=1e-5)


class TestPrograms:
    @pytest.fixture(scope="class")
    @classmethod
    def program(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return write_program(tmp_path_factory.mktemp("program") / "cnn.pt2")

    def test_becomes_both_formats_without_an_example(self, program: Path, tmp_path: Path) -> None:
        model = find("torch").load(Origin("torch", str(program)))

        framework.export(model, "onnx", tmp_path / "m.onnx", {})
        framework.export(model, "tflite", tmp_path / "m.tflite", {})

        image = floats(1, 1, 8, 8)
        want = answers(seeded(torch_models.Cnn), {"image": image})[0]
        assert framework.input_names(model) == ("image",)
        onnx_engine = OnnxEngine.load(tmp_path / "m.onnx", SETTINGS)
        assert onnx_engine.inputs[0].shape == (-1, 1, 8, 8)
        np.testing.assert_allclose(onnx_engine.run({"image": image})["output"], want, atol=1e-5)
        tflite_engine = TfliteEngine.load(tmp_path / "m.tflite", SETTINGS)
        np.testing.assert_allclose(tflite_engine.run({"image": image})["output"], want, atol=1e-5)

    def test_fixed_batch_stays_fixed(self, tmp_path: Path) -> None:
        path = write_program(tmp_path / "one.pt2", batch=False)

        framework.export(framework.load(Origin("torch", str(path))), "onnx", tmp_path / "m.onnx", {})

        assert OnnxEngine.load(tmp_path / "m.onnx", SETTINGS).inputs[0].shape == (1, 1, 8, 8)

    def test_training_mode_is_refused(self, tmp_path: Path) -> None:
        path = write_program(tmp_path / "m.pt2", model=seeded(torch_models.Cnn).train())

        with pytest.raises(ConversionError, match=r"call model\.eval"):
            framework.export(framework.load(Origin("torch", str(path))), "onnx", tmp_path / "m.onnx", {})

    def test_truncated_file_is_refused(self, program: Path, tmp_path: Path) -> None:
        (tmp_path / "m.pt2").write_bytes(program.read_bytes()[:-200])

        with pytest.raises(ModelError, match="truncated"):
            framework.load(Origin("torch", str(tmp_path / "m.pt2")))

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            (b'"use_pickle": false', b'"use_pickle": true '),
            (b'"expr_str": "', b'"expr_str": "print(1)+'),
        ],
        ids=["pickle", "expression"],
    )
    def test_parts_that_run_code_need_trust(
        self, old: bytes, new: bytes, program: Path, tmp_path: Path
    ) -> None:
        changed = False
        with (
            zipfile.ZipFile(program) as source,
            zipfile.ZipFile(tmp_path / "m.pt2", "w") as target,
        ):
            for name in source.namelist():
                content = source.read(name)
                changed |= old in content
                target.writestr(name, content.replace(old, new))
        assert changed

        with pytest.raises(ModelError, match="--trust-pickle"):
            framework.load(Origin("torch", str(tmp_path / "m.pt2")))

    @pytest.mark.parametrize(
        "name",
        [
            "{}/data/aotinductor/model/model.so",
            "{}/data/aotinductor/model/model.cpp",
            "{}/data/constants/opaque_obj_0",
            "{}/data/constants/opaque_obj_0/tensor_0",
            "{}/data/CONSTANTS/opaque_obj_0",
            "{}/data/constants/custom_obj_0",
            "other/data/weights/weight_0",
            "serialized_exported_program.json",
            "{}/data/weights/weight_0\n",
        ],
    )
    def test_parts_that_are_not_known_need_trust(self, program: Path, tmp_path: Path, name: str) -> None:
        path = tmp_path / "m.pt2"
        path.write_bytes(program.read_bytes())
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(name.format(archive.namelist()[0].split("/")[0]), b"")
        with pytest.raises(ModelError, match=r"a part that this program does not know.*--trust-pickle"):
            framework.load(Origin("torch", str(path)))

    @pytest.mark.parametrize("there", [b'"tensor_/0"', b'"custom_0"', b'"opaque_0"'])
    def test_tables_name_only_files_beside_them(self, program: Path, tmp_path: Path, there: bytes) -> None:
        with (
            zipfile.ZipFile(program) as source,
            zipfile.ZipFile(tmp_path / "m.pt2", "w") as target,
        ):
            for name in source.namelist():
                target.writestr(name, source.read(name).replace(b'"weight_0"', there))
        with pytest.raises(ModelError, match=r"_weights_config\.json.*--trust-pickle"):
            framework.load(Origin("torch", str(tmp_path / "m.pt2")))

    def test_cannot_be_pruned(self, program: Path) -> None:
        model = framework.load(Origin("torch", str(program)))
        images, classes = torch_models.stripes(4)

        with pytest.raises(ConversionError, match=r"package\.module:factory"):
            framework.prune(model, Training({"image": images}, classes), PruneSettings(), lambda share: None)


class TestFactories:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        (tmp_path / "made_by_user.py").write_text(
            "from torch import nn\n"
            "class Small(nn.Module):\n"
            "    def __init__(self):\n"
            "        super().__init__()\n"
            "        self.layer = nn.Linear(4, 3)\n"
            "    def forward(self, x):\n"
            "        return self.layer(x)\n"
            "def small(): return Small()\n"
            "def number(): return 7\n"
            "def broken(): raise KeyError('weights')\n"
        )
        sys.modules.pop("made_by_user", None)
        return tmp_path

    def origin(self, folder: Path, name: str = "small", weights: Path | str = "") -> Origin:
        return Origin("torch", f"made_by_user:{name}", str(weights), import_from=str(folder))

    def test_gets_its_state_dict(self, folder: Path) -> None:
        layer = nn.Linear(4, 3)
        state = {"layer.weight": layer.weight, "layer.bias": layer.bias}
        torch.save(state, folder / "plain.pt")
        torch.save({"epoch": 3, "model_state_dict": state}, folder / "checkpoint.pt")

        for name in ("plain.pt", "checkpoint.pt"):
            model = framework.load(self.origin(folder, weights=folder / name))

            assert torch.equal(model.layer.weight, layer.weight)
        assert framework.input_names(model) == ("x",)

    def test_reads_safetensors(self, folder: Path) -> None:
        from safetensors.torch import save_file

        weight = torch.ones(3, 4)
        save_file({"layer.weight": weight, "layer.bias": torch.zeros(3)}, folder / "w.safetensors")

        model = framework.load(self.origin(folder, weights=folder / "w.safetensors"))

        assert torch.equal(model.layer.weight, weight)

    def test_weights_of_another_model_are_refused(self, folder: Path) -> None:
        torch.save(nn.Linear(4, 3).state_dict(), folder / "w.pt")

        with pytest.raises(ModelError, match="do not fit the model: Missing key"):
            framework.load(self.origin(folder, weights=folder / "w.pt"))

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("number", "gives a int, not an nn.Module"),
            ("broken", "fails with KeyError"),
            ("nothing", "has no function 'nothing'"),
        ],
    )
    def test_what_is_no_model_is_refused(self, folder: Path, name: str, said: str) -> None:
        with pytest.raises(EdgeAgentError, match=said):
            framework.load(self.origin(folder, name))

    def test_missing_module_is_named(self, folder: Path) -> None:
        with pytest.raises(RequestError, match="Cannot import not_there for not_there:make"):
            framework.load(Origin("torch", "not_there:make", import_from=str(folder)))

    def test_missing_weights_are_named(self, folder: Path) -> None:
        with pytest.raises(NotFoundError, match=r"no weights at .*gone.pt"):
            framework.load(self.origin(folder, weights=folder / "gone.pt"))


class TestRefusals:
    def load(self, path: Path, *, trust: bool = False) -> object:
        return framework.load(Origin("torch", str(path), trust_pickle=trust))

    def test_state_dict_alone(self, tmp_path: Path) -> None:
        torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "m.pt")

        with pytest.raises(ModelError, match=r"package\.module:factory"):
            self.load(tmp_path / "m.pt")

    def test_pickled_module_needs_trust(self, tmp_path: Path) -> None:
        torch.save(nn.Sequential(nn.Linear(2, 2)), tmp_path / "m.pt")

        with pytest.raises(ModelError, match="give --trust-pickle if you made it"):
            self.load(tmp_path / "m.pt")
        assert isinstance(self.load(tmp_path / "m.pt", trust=True), nn.Sequential)

    def test_torchscript(self, tmp_path: Path) -> None:
        with silenced():
            torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "m.pt")

        with pytest.raises(ModelError, match="TorchScript"):
            self.load(tmp_path / "m.pt", trust=True)

    @pytest.mark.parametrize("content", [b"", b"no model", b"PK\x03\x04 torn"], ids=["empty", "text", "zip"])
    def test_other_files(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "m.pt").write_bytes(content)

        with pytest.raises(ModelError, match="not a PyTorch file"):
            self.load(tmp_path / "m.pt", trust=True)

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(NotFoundError, match=r"gone.pt2 does not exist"):
            self.load(tmp_path / "gone.pt2")

    def test_model_that_torch_quantized(self, tmp_path: Path) -> None:
        with silenced():
            model = torch.ao.quantization.quantize_dynamic(torch_models.mlp(), {nn.Linear}, torch.qint8)

        with pytest.raises(ConversionError, match="give the float model and ask for the precision dynamic"):
            framework.export(model, "onnx", tmp_path / "m.onnx", {"input": floats(2, 4)})

    @pytest.mark.parametrize("target_format", ["onnx", "tflite"])
    def test_unsupported_operator_is_named(self, target_format, tmp_path: Path) -> None:
        with pytest.raises(ConversionError, match=r"operator aten\._linalg_eigh cannot be converted"):
            framework.export(torch_models.Sorting(), target_format, tmp_path / "m", {"matrix": floats(2, 3, 3)})
        assert not list(tmp_path.iterdir())

    def test_data_that_the_model_cannot_take(self, tmp_path: Path) -> None:
        with pytest.raises(ConversionError, match="cannot trace the model"):
            framework.export(torch_models.mlp(), "onnx", tmp_path / "m.onnx", {"input": floats(2, 5)})

    def test_no_data(self, tmp_path: Path) -> None:
        with pytest.raises(ConversionError, match="does not tell the shape of its input image"):
            framework.export(torch_models.Cnn(), "onnx", tmp_path / "m.onnx", {})

    def test_forward_without_names(self) -> None:
        class Any(nn.Module):
            def forward(self, *inputs):
                return inputs[0]

        with pytest.raises(ConversionError, match=r"takes \*inputs"):
            framework.input_names(Any())

    def test_no_module(self) -> None:
        with pytest.raises(ModelError, match="A dict is not a PyTorch model"):
            framework.input_names({})
