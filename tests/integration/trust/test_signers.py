"""Keys that are not PEM files: a PKCS#11 token (SoftHSM) and a file by URI.

No cloud's key service: moto's KMS hashes what it is told is a digest, so that its signatures never hold.
"""

import os
import shutil
import subprocess
import sys
from base64 import b64encode
from pathlib import Path

import pytest

from edge_fleet.cli import main
from edge_fleet.keys import KeyFolder
from edge_fleet.repository import Repository
from edge_fleet.trust.signers import public_pem_of, read_key
from support.host import need_program
from support.tiny_fleet import Fleet, build_package

PIN = "1234"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path / "fleet/keys"


def init_and_publish(tmp_path: Path, keys: Path) -> Repository:
    """Make a store whose role is signed by whatever the folder says, and publish to it."""
    store = tmp_path / "fleet/store"
    assert main(["init", str(store), "--keys", str(keys), "--unencrypted"]) == 0
    assert main(["publish", str(store), str(build_package(tmp_path)), "--keys", str(keys)]) == 0
    return Repository(store)


class TestFile:
    def test_a_store_signed_by_uri(self, tmp_path: Path, keys: Path) -> None:
        elsewhere = KeyFolder(tmp_path / "elsewhere")
        elsewhere.create("x", "ecdsa")
        public = tmp_path / "public.pem"
        public.write_bytes(public_pem_of(read_key(elsewhere, "x")))
        uri = f"file2:{elsewhere.file('x')}"
        assert main(["keys", "use", "targets", uri, "--public", str(public), "--keys", str(keys)]) == 0
        repository = init_and_publish(tmp_path, keys)
        (keyid,) = repository.read().roles["targets"].signatures
        assert keyid == read_key(elsewhere, "x").keyid
        assert not (keys / "targets.pem").exists()

    def test_another_public_key_is_refused(
        self, tmp_path: Path, keys: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        elsewhere = KeyFolder(tmp_path / "elsewhere")
        for name in ("x", "y"):
            elsewhere.create(name)
        public = tmp_path / "public.pem"
        public.write_bytes(public_pem_of(read_key(elsewhere, "y")))
        uri = f"file2:{elsewhere.file('x')}"
        assert main(["keys", "use", "targets", uri, "--public", str(public), "--keys", str(keys)]) == 2
        assert "does not match public key" in capsys.readouterr().err
        assert not keys.exists()

    def test_a_scheme_that_nobody_knows(
        self, tmp_path: Path, keys: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        fleet = Fleet(tmp_path / "other")
        fleet.repository.create(fleet.keys, fleet.now)
        public = tmp_path / "public.pem"
        public.write_bytes(public_pem_of(read_key(fleet.keys, "root")))
        assert main(["keys", "use", "root", "magic:1", "--public", str(public), "--keys", str(keys)]) == 2
        assert "cannot be opened by magic:1" in capsys.readouterr().err


class TestToken:
    """On SoftHSM, which CI installs. Its library is set up once for each process, so each command is one."""

    @pytest.fixture
    def environment(self, tmp_path: Path) -> dict[str, str]:
        programs = need_program("softhsm2-util", "softhsm2"), need_program("pkcs11-tool", "opensc")
        library = next(Path("/usr/lib").glob("**/libsofthsm2.so"))
        (tmp_path / "tokens").mkdir()
        config = tmp_path / "softhsm2.conf"
        config.write_text(f"directories.tokendir = {tmp_path / 'tokens'}\n")
        environment = {
            **os.environ,
            "SOFTHSM2_CONF": str(config),
            "PYKCS11LIB": str(library),
            "EDGE_FLEET_PIN": PIN,
            "EDGE_FLEET_KEYS": str(tmp_path / "fleet/keys"),
        }
        init = [programs[0], "--init-token", "--free", "--label", "fleet", "--pin", PIN, "--so-pin", PIN]
        tool = [programs[1], "--module", str(library), "--login", "--pin", PIN, "--token-label", "fleet"]
        pair = ["--keypairgen", "--key-type", "EC:prime256v1", "--id", "02", "--label", "root"]
        read = ["--read-object", "--type", "pubkey", "--id", "02", "--output-file", str(tmp_path / "root.der")]
        for command in (init, [*tool, *pair], [*tool, *read]):
            subprocess.run(command, env=environment, check=True, capture_output=True)
        (tmp_path / "root.pem").write_text(pem((tmp_path / "root.der").read_bytes()))
        return environment

    @pytest.fixture
    def store(self, tmp_path: Path, environment: dict[str, str]) -> Path:
        """A store whose root is signed by the token."""
        store = tmp_path / "fleet/store"
        public = str(tmp_path / "root.pem")
        assert run(environment, "keys", "use", "root", "hsm:2?label=fleet", "--public", public) == ""
        assert run(environment, "init", str(store), "--unencrypted") == ""
        return store

    def test_a_root_that_never_leaves_its_token(self, store: Path, environment: dict[str, str]) -> None:
        assert run(environment, "rotate", str(store), "timestamp", "--new-key") == ""
        root = Repository(store).read().roles["root"]
        assert root.signed.version == 2
        keys = KeyFolder(store.parent / "keys")
        assert list(root.signatures) == [read_key(keys, "root").keyid]
        assert not keys.file("root").exists()

    def test_a_wrong_pin(self, store: Path, environment: dict[str, str]) -> None:
        said = run({**environment, "EDGE_FLEET_PIN": "9999"}, "refresh", str(store), "--all", exit_code=2)
        assert "did not sign (" in said
        assert said.count("\n") == 1

    def test_a_token_that_was_taken_out(self, store: Path, environment: dict[str, str], tmp_path: Path) -> None:
        shutil.rmtree(tmp_path / "tokens")
        before = (store / "metadata/timestamp.json").read_bytes()
        said = run(environment, "refresh", str(store), "--all", exit_code=2)
        assert said.count("\n") == 1
        assert (store / "metadata/timestamp.json").read_bytes() == before


def pem(der: bytes) -> str:
    return f"-----BEGIN PUBLIC KEY-----\n{b64encode(der).decode()}\n-----END PUBLIC KEY-----\n"


def run(environment: dict[str, str], *arguments: str, exit_code: int = 0) -> str:
    """Run the command line in a process of its own; return what it says on standard error."""
    command = [sys.executable, "-m", "edge_fleet.cli", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == exit_code, done.stderr
    return done.stderr
