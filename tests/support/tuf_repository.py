"""A TUF repository of any shape, sound or not, behind a web server; and the conformance client that asks it."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Role,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

CLIENT: Final = Path(__file__).parents[1] / "conformance/tuf_client.py"
TOP_LEVEL: Final = ("root", "timestamp", "snapshot", "targets")


class TufRepository:
    """Roles to change at will, and `publish` to sign and serve them; `files` is what the server gives out."""

    def __init__(self) -> None:
        self.expiry = datetime.now(UTC).replace(microsecond=0) + timedelta(days=30)
        self.signers = {role: [CryptoSigner.generate_ed25519()] for role in TOP_LEVEL}
        self.signed: dict[str, Any] = {
            "root": Root(expires=self.expiry, consistent_snapshot=True),
            "timestamp": Timestamp(expires=self.expiry),
            "snapshot": Snapshot(expires=self.expiry),
            "targets": Targets(expires=self.expiry),
        }
        for role, (signer,) in self.signers.items():
            self.root.add_key(signer.public_key, role)
        self.files: dict[str, bytes] = {}
        self.statuses: dict[str, int] = {}
        """HTTP statuses of files that are not given out."""
        self.requests: list[str] = []
        self.published: dict[str, list[bytes]] = {role: [] for role in TOP_LEVEL}
        self.with_hashes = False
        self.publish("targets", "snapshot", "timestamp", "root")

    @property
    def root(self) -> Any:
        """The root to be published next."""
        return self.signed["root"]

    @property
    def timestamp(self) -> Any:
        """The timestamp to be published next."""
        return self.signed["timestamp"]

    @property
    def snapshot(self) -> Any:
        """The snapshot to be published next."""
        return self.signed["snapshot"]

    @property
    def targets(self) -> Any:
        """The top-level targets to be published next."""
        return self.signed["targets"]

    def publish(self, *roles: str, version: int | None = None) -> None:
        """Sign roles, with the next version unless it is given, and tell of them in snapshot and timestamp."""
        for role in roles:
            signed = self.signed[role]
            if version is not None:
                signed.version = version
            elif self.published[role]:
                signed.version += 1
            self.put(role, signed.version, self.encode(role))

    def encode(self, role: str) -> bytes:
        """Return a role's metadata, signed by its signers."""
        metadata = Metadata(self.signed[role])
        for signer in self.signers[role]:
            metadata.sign(signer, append=True)
        return metadata.to_bytes()

    def put(self, role: str, version: int, content: bytes) -> None:
        """Give out a role's metadata, whatever it is, under a version's name."""
        self.published[role].append(content)
        name = quote(role, "")
        is_versioned = role == "root" or (role != "timestamp" and self.root.consistent_snapshot)
        self.files[f"metadata/{version}.{name}.json" if is_versioned else f"metadata/{name}.json"] = content
        hashes = {"sha256": hashlib.sha256(content).hexdigest()} if self.with_hashes else None
        described = MetaFile(version, len(content) if self.with_hashes else None, hashes)
        if role == "snapshot":
            self.timestamp.snapshot_meta = described
        elif role not in ("root", "timestamp"):
            self.snapshot.meta[f"{role}.json"] = described

    def replace_keys(self, role: str) -> None:
        """Give a top-level role a new key instead of those it has."""
        self.root.roles[role].keyids.clear()
        self.signers[role] = [CryptoSigner.generate_ed25519()]
        self.root.add_key(self.signers[role][0].public_key, role)

    def set_keys(
        self, role: str, keys: Sequence[CryptoSigner], threshold: int, by: Sequence[CryptoSigner]
    ) -> None:
        """Give a top-level role these keys, and have these sign it."""
        self.root.roles[role] = Role([key.public_key.keyid for key in keys], threshold)
        for key in keys:
            self.root.keys[key.public_key.keyid] = key.public_key
        self.signers[role] = list(by)

    def delegate(
        self, delegator: str, role: str, paths: Sequence[str] = ("*",), terminating: bool = False
    ) -> None:
        """Let a role sign targets by these patterns, with a key of its own for this delegator."""
        if role not in self.signed:
            self.signed[role] = Targets(expires=self.expiry)
            self.signers[role] = [CryptoSigner.generate_ed25519()]
            self.published[role] = []
        delegating = self.signed[delegator]
        if delegating.delegations is None:
            delegating.delegations = Delegations({}, {})
        delegating.delegations.roles[role] = DelegatedRole(role, [], 1, terminating, list(paths))
        delegating.add_key(self.signers[role][0].public_key, role)

    def add_target(self, role: str, path: str, content: bytes, hashes: Sequence[str] = ("sha256",)) -> str:
        """Have a role sign a target, give it out, and return its path on the server."""
        info = TargetFile.from_data(path, content, list(hashes))
        self.signed[role].targets[path] = info
        folder, slash, name = path.rpartition("/")
        for digest in info.hashes.values():
            prefix = f"{digest}." if self.root.consistent_snapshot else ""
            file = f"targets/{folder}{slash}{prefix}{name}"
            self.files[file] = content
        return file

    def asked(self) -> list[str]:
        """Return the requests for metadata since the last call, as `2.root`."""
        asked = [path.removeprefix("metadata/").removesuffix(".json") for path in self.requests]
        self.requests.clear()
        return asked


class Client:
    """The conformance client with its folders, run as the suite runs it."""

    def __init__(self, folder: Path, url: str, bootstrap: bytes) -> None:
        self.metadata = folder / "metadata"
        self.targets = folder / "targets"
        self._url = url
        for path in (self.metadata, self.targets):
            path.mkdir(parents=True)
        self._root = folder / "initial_root.json"
        self._root.write_bytes(bootstrap)

    def init(self) -> int:
        """Trust the bootstrap root."""
        return self.run("--metadata-dir", self.metadata, "init", self._root)

    def refresh(self) -> int:
        """Update the metadata."""
        return self.run(*self._metadata_at(), "refresh")

    def download(self, *names: str) -> int:
        """Download targets."""
        words = [word for name in names for word in ("--target-name", name)]
        places = ("--target-dir", self.targets, "--target-base-url", f"{self._url}/targets/")
        return self.run(*self._metadata_at(), *words, *places, "download")

    def _metadata_at(self) -> tuple[object, ...]:
        return ("--metadata-dir", self.metadata, "--metadata-url", f"{self._url}/metadata/")

    def run(self, *words: object) -> int:
        """Run the client; what it says of an error is one line."""
        command = [sys.executable, str(CLIENT), *map(str, words)]
        ended = subprocess.run(command, capture_output=True, timeout=60, check=False, text=True)
        lines = ended.stderr.splitlines()
        assert len(lines) == ended.returncode, ended.stderr
        self.said = lines[0] if lines else ""
        return ended.returncode

    def trusted(self) -> dict[str, int]:
        """Return the version of every role that is trusted, by file name without `.json`."""
        return {
            path.name.removesuffix(".json"): json.loads(path.read_bytes())["signed"]["version"]
            for path in self.metadata.glob("*.json")
        }

    def downloaded(self) -> list[bytes]:
        """Return what was downloaded, the oldest first."""
        files = [Path(folder, name) for folder, _, names in os.walk(self.targets) for name in names]
        return [path.read_bytes() for path in sorted(files, key=lambda path: path.stat().st_mtime_ns)]


@contextmanager
def serving(repository: TufRepository) -> Iterator[str]:
    """Give a repository's files out, and note what was asked for; yields the URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.lstrip("/")
            repository.requests.append(path)
            content = repository.files.get(path)
            self.send_response(repository.statuses.get(path, 404 if content is None else 200))
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as in the base class
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), name="repository", daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
