"""Keys at rest: encrypted by default, opened by file, environment or a person at a terminal."""

import io
import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from edge_fleet.cli import main
from edge_fleet.keys import is_encrypted
from support.tiny_fleet import build_package

SECRET = "open sesame"
NEW_SECRET = "abracadabra"
CTRL_D = "\x04"


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a terminal nor a passphrase in the environment."""
    for variable in ("EDGE_FLEET_PASSPHRASE", "EDGE_FLEET_NEW_PASSPHRASE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(sys, "stdin", io.StringIO())


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(f"{SECRET}\nsecond line\n")
    return path


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path / "keys"


@pytest.fixture
def store(tmp_path: Path, keys: Path, secret: Path) -> Path:
    store = tmp_path / "store"
    assert main(["init", str(store), "--keys", str(keys), "--passphrase-file", str(secret)]) == 0
    return store


def said(capsys: pytest.CaptureFixture[str]) -> str:
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    return text


def test_plain_keys_have_to_be_asked_for(
    tmp_path: Path, keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    init = ["init", str(tmp_path / "store"), "--keys", str(keys)]
    assert main(init) == 2
    assert "The new keys have no passphrase: set EDGE_FLEET_PASSPHRASE" in said(capsys)
    assert not list(keys.glob("*"))
    assert main([*init, "--unencrypted"]) == 0
    # In a folder of plain keys another one is plain without a word.
    package = str(build_package(tmp_path))
    assert main(["publish", str(tmp_path / "store"), package, "--keys", str(keys)]) == 0
    assert not any(map(is_encrypted, keys.glob("*.pem")))


def test_a_file_and_the_environment(
    store: Path, keys: Path, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert all(map(is_encrypted, keys.glob("*.pem")))
    assert main(["refresh", str(store), "--keys", str(keys), "--passphrase-file", str(secret)]) == 0
    monkeypatch.setenv("EDGE_FLEET_PASSPHRASE", SECRET)
    assert main(["refresh", str(store), "--keys", str(keys)]) == 0


def test_without_it_or_with_a_wrong_one(
    store: Path, keys: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    refresh = ["refresh", str(store), "--keys", str(keys)]
    assert main(refresh) == 2
    assert "is encrypted: set EDGE_FLEET_PASSPHRASE" in said(capsys)
    monkeypatch.setenv("EDGE_FLEET_PASSPHRASE", "guess")
    assert main(refresh) == 2
    assert "wrong EDGE_FLEET_PASSPHRASE" in said(capsys)
    assert main([*refresh, "--passphrase-file", "/dev/null"]) == 2
    assert "has no first line" in said(capsys)
    assert main(["keys", "list", "--keys", str(keys)]) == 0
    assert "locked" in capsys.readouterr().out


def test_another_passphrase(
    store: Path, keys: Path, secret: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "new"
    new.write_text(NEW_SECRET)
    change = ["keys", "passphrase", "--keys", str(keys), "--passphrase-file"]
    assert main([*change, str(new), "--new-passphrase-file", str(new)]) == 2
    assert main([*change, str(secret), "none", "--new-passphrase-file", str(new)]) == 2
    capsys.readouterr()
    assert main([*change, str(secret)]) == 2
    assert "no terminal to ask for the new passphrase" in said(capsys)
    assert main([*change, str(secret), "--new-passphrase-file", str(new)]) == 0
    assert main(["refresh", str(store), "--keys", str(keys), "--passphrase-file", str(new)]) == 0
    assert main([*change, str(new), "snapshot", "timestamp", "deployments", "--unencrypted"]) == 0
    assert main(["refresh", str(store), "--keys", str(keys)]) == 0
    assert is_encrypted(keys / "root.pem")


@pytest.mark.parametrize("command", ["init", "create"])
@pytest.mark.parametrize("given", ["EDGE_FLEET_PASSPHRASE", "--passphrase-file"])
def test_a_passphrase_and_none(
    command: str,
    given: str,
    keys: Path,
    secret: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["init", str(tmp_path / "store")] if command == "init" else ["keys", "create", "root"]
    words += ["--keys", str(keys), "--unencrypted"]
    if given == "--passphrase-file":
        words += [given, str(secret)]
    else:
        monkeypatch.setenv(given, SECRET)
    assert main(words) == 2
    assert f"A passphrase is given, and --unencrypted: leave that out, or {given}." in said(capsys)
    assert not keys.exists()


def test_another_passphrase_and_none(
    store: Path, keys: Path, secret: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    change = ["keys", "passphrase", "--keys", str(keys), "--passphrase-file", str(secret), "--unencrypted"]
    with pytest.raises(SystemExit) as left:
        main([*change, "--new-passphrase-file", str(secret)])
    assert left.value.code == 2
    assert "not allowed with argument" in capsys.readouterr().err
    monkeypatch.setenv("EDGE_FLEET_NEW_PASSPHRASE", NEW_SECRET)
    assert main(change) == 2
    assert "A new passphrase is given, and --unencrypted" in said(capsys)
    assert all(map(is_encrypted, keys.glob("*.pem")))
    with pytest.raises(SystemExit):
        main(["keys", "passphrase", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "write these keys again without any passphrase" in shown
    assert "make new keys" not in shown


def test_what_keys_a_folder_has(
    store: Path, keys: Path, secret: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    create = ["keys", "create", "root.spare", "--type", "ecdsa", "--keys", str(keys)]
    assert main([*create, "--passphrase-file", str(secret)]) == 0
    capsys.readouterr()
    listing = ["keys", "list", "--keys", str(keys), "--store", str(store), "--json"]
    assert main([*listing, "--passphrase-file", str(secret)]) == 0
    rows = {row["file"]: row for row in json.loads(capsys.readouterr().out)["keys"]}
    assert (rows["root.pem"]["type"], rows["root.pem"]["trusted_by"]) == ("ed25519", ["root"])
    assert (rows["root.spare.pem"]["type"], rows["root.spare.pem"]["trusted_by"]) == ("ecdsa", [])
    assert {row["kept"] for row in rows.values()} == {"encrypted"}
    assert len(rows["root.pem"]["keyid"]) == 64


def converse(arguments: Sequence[str], answers: Sequence[tuple[str, str]]) -> tuple[int, str]:
    """Run the command line at a terminal; answer each question when it appears; return code and output."""
    ours, theirs = pty.openpty()
    # The terminal becomes its controlling one, as a shell's is: passphrases are asked for there.
    program = "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); from edge_fleet import cli"
    command = [sys.executable, "-c", f"{program}; sys.exit(cli.main())", *arguments]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as child:
        os.close(theirs)
        output, seen = "", 0
        waiting = list(answers)
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            if not select.select([ours], [], [], 1)[0]:
                continue
            try:
                piece = os.read(ours, 4096).decode()
            except OSError:  # how a terminal says that the other side is gone
                break
            if not piece:
                break
            output += piece
            if waiting and waiting[0][0] in output[seen:]:
                seen = len(output)
                answer = waiting.pop(0)[1]
                os.write(ours, answer.encode() if answer == CTRL_D else answer.encode() + b"\n")
        os.close(ours)
        assert waiting == [], output
        return child.wait(30), output


class TestTerminal:
    def test_a_person_is_asked_once(self, tmp_path: Path, keys: Path) -> None:
        store = str(tmp_path / "store")
        questions = [
            ("Passphrase for the new keys", SECRET),
            ("Once more", "typo"),
            ("Passphrase for the new keys", SECRET),
            ("Once more", SECRET),
        ]
        code, output = converse(["init", store, "--keys", str(keys)], questions)
        assert (code, output.count("Passphrase for")) == (0, 2), output
        assert all(map(is_encrypted, keys.glob("*.pem")))
        code, output = converse(["refresh", store, "--keys", str(keys)], [("Passphrase of ", SECRET)])
        assert (code, output.count("Passphrase of")) == (0, 1), output
        code, output = converse(["refresh", store, "--keys", str(keys)], [("Passphrase of ", "guess")])
        assert code == 2
        assert "cannot be opened" in output

    def test_an_empty_answer_leaves_them_plain(self, tmp_path: Path, keys: Path) -> None:
        questions = [("Passphrase for the new keys", ""), ("Once more", "")]
        code, output = converse(["init", str(tmp_path / "store"), "--keys", str(keys)], questions)
        assert code == 0, output
        assert not any(map(is_encrypted, keys.glob("*.pem")))

    def test_the_key_that_publish_names_is_asked_for(self, tmp_path: Path, keys: Path, secret: Path) -> None:
        store, mine = str(tmp_path / "store"), tmp_path / "mine"
        assert main(["init", store, "--keys", str(keys), "--unencrypted"]) == 0
        create = ["keys", "create", "m-digits", "--keys", str(mine), "--passphrase-file", str(secret)]
        assert main(create) == 0
        publish = ["publish", store, str(build_package(tmp_path)), "--keys", str(keys)]
        key = mine / "m-digits.pem"
        code, output = converse([*publish, "--key", str(key)], [(f"Passphrase of {key}", SECRET)])
        assert code == 0, output

    @pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 2), (CTRL_D, 2)])
    def test_who_signs_is_shown_what(self, tmp_path: Path, keys: Path, answer: str, code: int) -> None:
        store, file = str(tmp_path / "store"), tmp_path / "root.proposal"
        assert main(["init", store, "--keys", str(keys), "--unencrypted"]) == 0
        rotate = ["rotate", store, "root", "--renew", "--proposal", str(file), "--keys", str(keys)]
        assert main(rotate) == 0
        before = file.read_bytes()
        left, output = converse(["sign", str(file), "--keys", str(keys)], [("Sign this?", answer)])
        assert left == code, output
        assert "proposes root 2" in output
        assert ("Nothing was signed." in output) == (code == 2)
        assert (file.read_bytes() != before) == (code == 0)

    @pytest.mark.parametrize("question", ["Passphrase of ", "Passphrase for the new keys", "Once more"])
    def test_an_end_of_input_is_no_passphrase(
        self, tmp_path: Path, keys: Path, secret: Path, question: str
    ) -> None:
        command = ["keys", "create", "root", "--keys", str(keys)]
        answers = [("Passphrase for the new keys", SECRET), (question, CTRL_D)]
        if question == "Passphrase of ":
            assert main([*command, "--passphrase-file", str(secret)]) == 0
            command = ["keys", "export", "root", "--keys", str(keys)]
        code, output = converse(command, answers if question == "Once more" else answers[1:])
        assert code == 2, output
        assert "edge-fleet: No passphrase was given" in output
        assert (keys / "root.pem").exists() == (question == "Passphrase of ")


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("rotate", "--passphrase-file", "retire"):
        assert word in script


@pytest.mark.parametrize(
    "command",
    ["init", "publish", "list", "serve", "refresh", "verify", "retire", "gc", "rotate", "sign", "apply"]
    + [f"keys {action}" for action in ("create", "list", "passphrase", "export", "use")],
)
def test_each_command_has_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([*command.split(), "--help"])
    assert left.value.code == 0
    assert f"  edge-fleet {command}" in capsys.readouterr().out
