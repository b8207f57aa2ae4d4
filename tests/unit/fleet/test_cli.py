"""What `edge-fleet` says when something goes wrong."""

import os
import subprocess
import sys

import pytest

from edge_fleet import cli
from edge_fleet.commands import store


def fail(options: object) -> None:
    raise ZeroDivisionError("oh\nno")


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_list", fail)


@pytest.mark.usefixtures("broken")
def test_an_unexpected_error_is_one_line_unless_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "store"]) == 1
    assert capsys.readouterr().err == "edge-fleet: Unexpected ZeroDivisionError: oh no; --debug shows where.\n"
    assert cli.main(["list", "store", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["serve", "store", "--port", "99999"], "argument --port: invalid port number value: '99999'"),
        (["serve", "store", "--port", "-1"], "argument --port: invalid port number value: '-1'"),
        (["collect", "--session-expiry-s", "4294967296"], "invalid whole number of seconds value"),
    ],
)
def test_numbers_out_of_range_are_mistakes_of_the_caller(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(words)
    assert left.value.code == 2
    assert says in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_error() -> None:
    script = (
        "import sys\nfrom edge_fleet import cli\nfrom edge_fleet.commands import store\n"
        "store._list = lambda options: cli.show.Created('', '', '')\n"
        "sys.exit(cli.main(['list', 'store', '--json']))"
    )
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_missing_extra_is_named_with_the_way_to_install_it() -> None:
    program = "import sys; sys.modules['rich'] = None; from edge_fleet.script import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", program, "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == (
        "edge-fleet: rich is not installed; install it with: pip install 'edge-inference-agent[fleet]'.\n"
    )
