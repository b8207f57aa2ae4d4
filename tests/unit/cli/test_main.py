import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edge_agent import __version__
from edge_agent.cli import main as main_module
from edge_agent.cli.main import COMMANDS, INTERRUPTED, build_parser, main
from edge_agent.documents.errors import OperatorError

EDGE_AGENT = Path(sys.executable).parent / "edge-agent"


def replaced(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let every command raise an error."""

    def parse(words: object) -> argparse.Namespace:
        def run(args: argparse.Namespace) -> int:
            raise error

        return argparse.Namespace(run=run)

    monkeypatch.setattr(main_module, "parse", parse)


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    script = (
        "import sys\nfrom edge_agent.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'pydantic', 'numpy', 'msgspec', 'tuf', 'httpx', 'onnxruntime'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False
    )
    took_s = time.perf_counter() - began
    assert done.returncode == 0, done.stderr
    assert took_s < 2, "should be about 0.06 s; this limit is for a busy machine"
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_with_examples_and_json(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([name, "--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert f"usage: edge-agent {name}" in text
    assert f"examples:\n  edge-agent {name}" in text
    assert "--json" in text


def test_all_options_of_all_commands_fit_one_parser() -> None:
    assert build_parser(tuple(COMMANDS)).parse_args(["events", "-n", "3"]).limit == 3


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"edge-agent {__version__}\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["statsu"], "there is no command 'statsu'; did you mean 'status'?"),
        (["frobnicate"], "there is no command 'frobnicate'; see 'edge-agent --help'."),
        ([], "the following arguments are required: COMMAND; see 'edge-agent --help'."),
        (["status", "--forse"], "'--forse' is no option of this command; see 'edge-agent status --help'."),
        (
            ["events", "-n", "0"],
            "argument -n: '0' is no whole number of at least 1; see 'edge-agent events --help'.",
        ),
        (
            ["infer", "m"],
            "one of the arguments --input --text --zeros is required; see 'edge-agent infer --help'.",
        ),
        (["quarantine", "release", "kws"], "'release' needs MODEL and VERSION, or --all without them"),
        (["quarantine", "release", "kws", "--all"], "'release' needs MODEL and VERSION, or --all without them"),
        (["quarantine", "release", "kws", "1", "--all"], "'release' needs MODEL and VERSION, or --all"),
        (["serve", "m.onnx", "--port", "-1"], "argument --port: '-1' is no whole number of at least 0"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"edge-agent: {says}")
    assert captured.err.count("\n") == 1


def test_an_error_of_ours_is_one_line_with_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replaced(monkeypatch, OperatorError("The disk is full; free some space."))
    assert main(["status", "--json"]) == 2
    captured = capsys.readouterr()
    assert captured.err == "edge-agent: The disk is full; free some space.\n"
    assert json.loads(captured.out) == {"error": "The disk is full; free some space.", "exit_code": 2}


def test_an_unexpected_error_shows_no_traceback_unless_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replaced(monkeypatch, KeyError("x\ny"))
    assert main(["status"]) == 1
    assert capsys.readouterr().err == "edge-agent: Unexpected KeyError: 'x\\ny'; --debug shows where.\n"
    assert main(["status", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    replaced(monkeypatch, KeyboardInterrupt())
    assert main(["status"]) == INTERRUPTED == 130


def test_a_reader_that_goes_away_gets_no_complaint() -> None:
    with subprocess.Popen(
        [EDGE_AGENT, "config", "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait(30) == 141


def test_completion_scripts_know_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for shell in ("bash", "zsh", "tcsh"):
        assert main(["completion", shell]) == 0
        script = capsys.readouterr().out
        assert all(name in script for name in COMMANDS)


def test_a_shell_completes_the_files_and_options_of_a_command(tmp_path: Path) -> None:
    (tmp_path / "rows.npy").touch()
    script = subprocess.run(
        [EDGE_AGENT, "completion", "bash"], capture_output=True, text=True, check=True
    ).stdout

    def completed(*words: str) -> list[str]:
        typed = f"COMP_WORDS=(edge-agent {' '.join(words)}); COMP_CWORD={len(words)}"
        done = subprocess.run(
            ["bash", "-c", f"{script}\n{typed}; _shtab_edge_agent; printf '%s\\n' \"${{COMPREPLY[@]}}\""],
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path,
        )
        return done.stdout.split()

    assert "top" in completed("to")
    assert "--interval" in completed("top", "--i")
    assert completed("infer", "m", "--input", "ro") == ["rows.npy"]
    assert completed("serve", "ro") == ["rows.npy"]


def test_completion_without_shtab_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert "pip install shtab" in capsys.readouterr().err
