import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from converters import cli
from support import convertible

DEADLINE_S = 30.0


def test_build_prints_a_table_and_the_folder(
    models, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = cli.main(["build", str(models.tflite), "--precision", "fp32", "--version", "1", "--samples", "10"])

    out, err = capsys.readouterr()
    assert code == 0
    assert err == ""
    assert "fp32" in out
    assert "ai-edge-litert" in out
    assert out.splitlines()[-1] == "packages/cnn/1"
    assert (workplace / "packages/cnn/1/manifest.json").is_file()
    assert "\x1b" not in out


def test_build_as_json_and_inspect_the_package(
    models, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["build", str(models.onnx), "--precision", "fp32", "--samples", "10", "--name", "cnn-a", "--json"]
    assert cli.main(words) == 0
    built = json.loads(capsys.readouterr().out)

    assert cli.main(["inspect", built["folder"]]) == 0
    shown = capsys.readouterr().out

    assert built["variants"][0]["packaged"] is True
    assert "onnx fp32" in shown
    assert "image FP32 [any, 1, 12, 12]" in shown


def test_inspect_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(convertible.okay_nabu())]) == 0
    shown = capsys.readouterr().out

    assert "tflite int8, 81 kB" in shown
    assert "runs on ai-edge-litert" in shown
    assert "12 VAR_HANDLE" in shown


def test_inspect_shows_what_a_compressed_variant_travels_as(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["build", str(convertible.okay_nabu()), "--version", "1", "--samples", "10"]) == 0
    assert "47 kB" in capsys.readouterr().out
    assert cli.main(["inspect", "packages/okay-nabu/1"]) == 0
    assert "tflite int8: 81 kB, travels as 47 kB of zstd; for" in capsys.readouterr().out


def test_inspect_a_folder_that_is_no_package(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(tmp_path), "--json"]) == 2

    out, err = capsys.readouterr()
    assert "is no package" in err
    assert json.loads(out)["exit_code"] == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["build"], "the following arguments are required: RECIPE|MODEL"),
        (["build", "m.onnx", "--range", "x=9:1"], "the lower bound first"),
        (["build", "m.onnx", "--range", "x=a:b"], "should look like NAME=0:255"),
        (["build", "m.onnx", "--shape", "1,2"], "should look like NAME=1,3,48,320"),
        (["build", "m.onnx", "--max-drop", "-1"], "should be a number, 0 or more"),
        (["build", "m.onnx", "--max-drop", "nan"], "should be a number, 0 or more"),
        (["build", "m.onnx", "--samples", "0"], "should be a whole number, at least 1"),
        (["convert"], "invalid choice: 'convert'"),
    ],
)
def test_mistakes_are_one_sentence(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(words)

    err = capsys.readouterr().err
    assert ended.value.code == 2
    assert said in err
    assert len(err.splitlines()) == 1


def test_model_that_does_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["build", "none.onnx"]) == 2
    assert capsys.readouterr().err == "edge-convert: none.onnx does not exist; give a model's file or folder.\n"


def test_completion_knows_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", "bash"]) == 0
    assert "--max-drop" in capsys.readouterr().out


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_build_leaves_nothing(models, tmp_path: Path, number: int, code: int) -> None:
    temporary = tmp_path / "tmp"
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "converters.cli", "build", models.onnx, "--samples", "200000", "--out", out],
        env={**os.environ, "TMPDIR": str(temporary)},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    # A worker's log says that the conversion is under way.
    end = time.monotonic() + DEADLINE_S
    while not list(temporary.glob("*/worker-*.log")):
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(number)
    _, err = process.communicate(timeout=DEADLINE_S)

    assert process.returncode == code
    assert b"Traceback" not in err
    assert not out.exists()
    assert not list(temporary.iterdir())


def test_folder_that_cannot_be_written_is_one_sentence(
    models, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full = workplace / "out"
    full.symlink_to("/proc/nowhere")

    code = cli.main(["build", str(models.tflite), "--precision", "fp32", "--samples", "8", "--out", str(full)])

    err = capsys.readouterr().err
    assert code == 2
    assert err.startswith("edge-convert: Cannot write ")
    assert len(err.splitlines()) == 1
