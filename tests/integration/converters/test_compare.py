import json
import platform
import sys
from pathlib import Path

import onnx
import pytest
from onnx import helper

from converters import cli, convert
from converters.compress import pack
from converters.package import plain_blob
from edge_agent.documents.errors import DocumentError
from edge_agent.documents.manifest import blob_path

INT8 = f"onnx int8 ({platform.machine()})"
"""The int8 variant for this host."""


@pytest.fixture(scope="module")
def packages(models, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    convert(models.onnx, precision=["fp32", "int8"], data=models.onnx_data, version="1", out=out)
    convert(models.onnx, precision=["fp32"], data=models.onnx_data, version="2", out=out)
    return out / "cnn"


def compared(capsys: pytest.CaptureFixture[str], *words: str | Path) -> dict[str, object]:
    assert cli.main(["compare", *map(str, words), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def test_model_with_its_int8_variant(models, packages: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = compared(capsys, models.onnx, packages / "1", "--precision", "int8", "--data", models.onnx_data)

    run = found["run"]
    assert found["b"]["title"] == f"cnn 1 ({INT8})"
    assert found["b"]["metrics"]["accuracy"] >= 0.94
    assert (run["samples"], run["generated"], run["is_classifier"]) == (120, False, True)
    assert run["agreement"] >= 0.97
    assert 0 < run["errors"]["scores"] < 0.5 * run["scales"]["scores"]
    assert run["metric"] == "accuracy"
    assert min(run["scores"]) >= 0.94
    assert all(one["latency_ms"] > 0 and one["memory_bytes"] > 0 for one in run["measured"])
    assert found["layers"][0]["name"] == "scores"
    assert found["layers"][0]["b_bytes"] < 0.3 * found["layers"][0]["a_bytes"]
    assert found["operators"]["QuantizeLinear"][0] == 0
    assert found["signature"] == []


def test_model_with_itself(models, capsys: pytest.CaptureFixture[str]) -> None:
    found = compared(capsys, models.tflite, models.tflite, "--samples", "9")

    assert found["run"]["agreement"] == 1
    assert found["run"]["errors"] == {"scores": 0}
    assert found["run"]["scores"] is None
    assert found["operators"] == {}
    assert found["variants"] == []


def test_two_packages_show_all_variants(packages: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = compared(capsys, packages / "1", packages / "2", "--precision", "fp32", "--samples", "9")

    variants = {one["label"]: one for one in found["variants"]}
    assert (
        variants["onnx fp32"]["a"]["metrics"]["accuracy"] == variants["onnx fp32"]["b"]["metrics"]["accuracy"]
    )
    assert variants[INT8]["b"] is None
    assert found["run"]["agreement"] == 1


def test_other_inputs_are_compared_as_files_and_the_reason_is_said(
    models, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["compare", str(models.onnx), str(models.tflite)]) == 0

    out = capsys.readouterr().out
    assert "weights of layer" in out
    assert "FULLY_CONNECTED" in out
    assert out.splitlines()[-1] == (
        "- They were not run on the same samples, since the input 'image' is FP32 [any, 1, 12, 12] in A and "
        "FP32 [1, 12, 12, 1] in B."
    )


def test_table_of_a_run(models, packages: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", models.onnx, packages / "1", "--precision", "int8", "--data", models.onnx_data]
    assert cli.main([str(word) for word in words]) == 0

    out = capsys.readouterr().out
    assert out.startswith(f"A  {models.onnx} (onnx fp32)\nB  cnn 1 ({INT8})\n")
    assert "- On 120 given samples they choose the same class to " in out
    assert "memory of runs" in out
    tables = [line for line in out.splitlines() if not line.startswith(("-", "A", "B"))]
    assert max(map(len, tables)) <= 100
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{onnx}", "none.onnx"], "none.onnx does not exist"),
        (["{onnx}", "{package}", "--precision", "fp16"], "has no fp16 variant; choose among "),
        (["{onnx}", "{onnx}", "--data", "{other}"], "so its array should be"),
        (["{onnx}", "{onnx}", "--range", "none=0:1"], "A range names the input 'none', but the model has: "),
        (["{onnx}", "{onnx}", "--shape", "image=1,2"], "[1, 2] does not fit"),
        (["{onnx}", "."], "is no package"),
    ],
)
def test_mistakes_are_one_sentence(
    models, packages: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"onnx": models.onnx, "package": packages / "1", "other": models.tflite_data}

    code = cli.main(["compare", *(word.format(**places) for word in words)])

    out, err = capsys.readouterr()
    assert code == 2
    assert said in err
    assert len(err.splitlines()) == 1
    assert out == ""


@pytest.mark.parametrize(
    ("words", "steps"),
    [
        (["compare", "{onnx}", "{onnx}"], ["read {name}", "run both on the same samples"]),
        (["inspect", "{onnx}"], ["load it in onnxruntime"]),
        (["inspect", "{package}"], ["inspect onnx fp32", "inspect onnx int8"]),
    ],
)
def test_terminal_gets_the_progress(
    models,
    packages: Path,
    words: list[str],
    steps: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    places = {"onnx": models.onnx, "package": packages / "1"}
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)

    assert cli.main([word.format(**places) for word in words]) == 0

    shown = capsys.readouterr().err
    assert all(step.format(name=models.onnx.name) in shown for step in steps)


def test_model_with_an_operator_that_no_runtime_has(
    models, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = with_custom_operator(models.onnx, tmp_path / "custom.onnx")

    assert cli.main(["compare", str(models.onnx), str(path)]) == 2

    err = capsys.readouterr().err
    assert "Unheard" in err
    assert len(err.splitlines()) == 1


def with_custom_operator(source: Path, target: Path) -> Path:
    model = onnx.load(source)
    model.graph.node[1].op_type, model.graph.node[1].domain = "Unheard", "custom"
    model.opset_import.append(helper.make_opsetid("custom", 1))
    onnx.save(model, target)
    return target


class TestInspect:
    def test_a_model_with_all_its_layers(self, models, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["inspect", str(models.onnx), "--layers", "all"]) == 0
        out = capsys.readouterr().out

        assert "opset ai.onnx 17" in out
        assert "1,748 parameters in 7 kB of weights, 13 kB of activations at their peak" in out
        assert "runs on onnxruntime" in out
        assert "91.8 %" in out

    def test_only_the_largest_layers(self, models, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["inspect", str(models.onnx), "--layers", "1"]) == 0
        out = capsys.readouterr().out

        assert "Gemm" in out
        assert " Conv " not in out
        assert "and 1 smaller layers; see them with --layers all" in out

    def test_json_has_all(self, models, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["inspect", str(models.tflite), "--json", "--layers", "0"]) == 0
        found = json.loads(capsys.readouterr().out)

        assert [layer["name"] for layer in found["layers"]] == ["convolved", "scores"]
        assert found["estimated_memory_bytes"] == found["weight_bytes"] + found["activation_bytes"]
        assert found["runtimes"].keys() == {"ai-edge-litert", "tflite-runtime"}

    def test_a_package(self, packages: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["inspect", str(packages / "1" / "manifest.json"), "--layers", "2"]) == 0
        out = capsys.readouterr().out

        assert f"for {platform.machine()}, onnxruntime" in out
        assert "golden answers may be off by: scores" in out
        assert "edge-inference-agent 0.1.0" in out
        assert "MatMul" not in out

    def test_a_package_as_json(self, packages: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["inspect", str(packages / "1"), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)

        assert len(found["models"]) == len(found["variants"]) == 3
        assert [one["sha256"] for one in found["models"]] == [
            one["file"]["content_sha256"] or one["file"]["sha256"] for one in found["variants"]
        ]

    def test_damaged_blob_is_one_sentence(
        self, models, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        package = convert(models.onnx, precision=["fp32"], samples=8, version="1", out=tmp_path / "out")
        blob = package.folder / blob_path(package.manifest.variants[0].file.sha256)
        blob.write_bytes(b"x" + blob.read_bytes()[1:])

        assert cli.main(["inspect", str(package.folder)]) == 2
        err = capsys.readouterr().err
        assert "is damaged" in err
        assert len(err.splitlines()) == 1


def test_compressed_blob_is_unpacked(tmp_path: Path) -> None:
    model = tmp_path / "whole"
    model.write_bytes(b"model" * 100)
    file, packed = pack(model, tmp_path)
    place = tmp_path / blob_path(file.sha256)
    place.parent.mkdir(parents=True)
    place.write_bytes(packed.read_bytes())

    assert file.compression == "zstd"
    assert plain_blob(tmp_path, file, tmp_path / "model").read_bytes() == b"model" * 100
    with pytest.raises(DocumentError, match="compression 'br' is not known"):
        plain_blob(tmp_path, file.model_copy(update={"compression": "br"}), tmp_path / "model")
