"""A tiny fleet in a temporary folder: keys, a store, packages with random bytes, a device that syncs."""

import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edge_agent.control.fetch import open_store
from edge_agent.control.metering import Clocks
from edge_agent.control.sync import synchronize
from edge_agent.control.trust import Trust
from edge_agent.documents.deployment import Arm, ModelDeployment
from edge_agent.documents.ipc import FromSync, SyncProgress, SyncRequest, SyncResult
from edge_agent.documents.manifest import (
    File,
    Golden,
    Manifest,
    Requirements,
    Source,
    Tensor,
    Variant,
    blob_path,
)
from edge_agent.documents.settings import Settings
from edge_agent.policy.trusted_time import Times
from edge_agent.store.layout import StateLayout
from edge_fleet.deploy import Change, deploy, parse_arms
from edge_fleet.keys import KeyFolder
from edge_fleet.publish import Published, publish, read_package
from edge_fleet.repository import Repository


@dataclass(frozen=True)
class Packed:
    """A compressed blob, and what the manifest claims of its content."""

    blob: bytes
    content: bytes

    @property
    def described(self) -> dict[str, Any]:
        return {
            "compression": "zstd",
            "content_sha256": hashlib.sha256(self.content).hexdigest(),
            "content_size_bytes": len(self.content),
        }


def build_package(
    folder: Path,
    name: str = "digits",
    version: str = "1",
    size_bytes: int = 300_000,
    packed: Packed | None = None,
    content: bytes | None = None,
) -> Path:
    """Make a package whose model file is random bytes, or `packed`, or `content`; sync loads no model."""
    package = folder / f"{name}-{version}-{os.urandom(4).hex()}"
    file = _add_blob(package, (content or os.urandom(size_bytes)) if packed is None else packed.blob)
    if packed is not None:
        file = file.model_copy(update=packed.described)
    manifest = Manifest(
        name=name,
        version=version,
        timestamp=datetime.now(UTC),
        source=Source(framework="onnx", sha256="0" * 64),
        inputs=(Tensor(name="x", datatype="FP32", shape=(-1, 4)),),
        outputs=(Tensor(name="y", datatype="FP32", shape=(-1, 2)),),
        golden=Golden(file=_add_blob(package, _golden()), samples=2),
        variants=(
            Variant(
                engine="onnx", precision="int8", file=file, requires=Requirements(runtimes=("onnxruntime",))
            ),
        ),
    )
    (package / "manifest.json").write_text(manifest.model_dump_json(by_alias=True))
    return package


def _golden() -> bytes:
    """Return 1000 bytes of golden samples: random numbers, other ones each time."""
    content = io.BytesIO()
    draw = np.random.default_rng().normal
    np.savez(content, **{"0/input/x": draw(size=(1, 4)), "0/output/y": draw(size=(1, 2))})
    with zipfile.ZipFile(content, "a") as archive:
        archive.comment = bytes(1000 - len(content.getvalue()))
    return content.getvalue()


def _add_blob(package: Path, content: bytes) -> File:
    digest = hashlib.sha256(content).hexdigest()
    path = package / blob_path(digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return File(sha256=digest, size_bytes=len(content))


@dataclass
class Fleet:
    """The operator's side."""

    folder: Path
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def repository(self) -> Repository:
        return Repository(self.store)

    @property
    def keys(self) -> KeyFolder:
        return KeyFolder(self.folder / "keys")

    def publish(self, name: str = "digits", version: str = "1", size_bytes: int = 300_000) -> Published:
        package = read_package(build_package(self.folder, name, version, size_bytes))
        return publish(self.repository, [package], self.keys, self.now)[0]

    def deploy(self, *models: str, group: str = "default", **change: object) -> None:
        wanted = Change(models=dict(map(parse_arms, models)), **change)  # type: ignore[arg-type]
        deploy(self.repository, self.keys, group, wanted, self.now)

    def arms(self, *versions: str) -> ModelDeployment:
        return ModelDeployment(arms=tuple(Arm(version=version) for version in versions))

    def sign(self, role: str, path: str, content: bytes) -> None:
        """Sign whatever it is; the fleet's own tools would refuse to."""
        with self.repository.editing(self.keys, self.now) as edit:
            edit.put_target(role, path, content)

    def blob(self, sha256: str) -> Path:
        return self.store / blob_path(sha256)

    def newest(self, role: str) -> Path:
        """Return the newest metadata file of a role but the timestamp's."""
        files = (self.store / "metadata").glob(f"*.{role}.json")
        return max(files, key=lambda path: int(path.name.split(".")[0]))


def forge(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change signed metadata, and leave the signatures as they are."""
    document = json.loads(path.read_bytes())
    change(document["signed"])
    path.write_text(json.dumps(document))


@dataclass
class Device:
    """One device; `sync` runs in this process, `sync_child` as the supervisor runs it."""

    settings: Settings

    @property
    def layout(self) -> StateLayout:
        return StateLayout(Path(self.settings.paths.state))

    def request(self, **fields: object) -> SyncRequest:
        return SyncRequest(**{"settings": self.settings, "quarantined": {}, **fields})  # type: ignore[arg-type]

    def sync(self, now: datetime | None = None, clocks: Clocks | None = None, **fields: object) -> SyncResult:
        self.progress: list[SyncProgress] = []
        return synchronize(self.request(**fields), now or datetime.now(UTC), self.progress.append, clocks)

    def sync_child(self, **fields: object) -> SyncResult:
        child = self.run_child(msgspec.json.encode(self.request(**fields)))
        messages = [msgspec.json.decode(line, type=FromSync) for line in child.stdout.splitlines()]
        assert child.returncode == 0, child.stderr
        assert [type(message) for message in messages[:-1]] == [SyncProgress] * (len(messages) - 1)
        assert isinstance(messages[-1], SyncResult)
        return messages[-1]

    def run_child(self, line: bytes) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "edge_agent.control.sync"]
        return subprocess.run(command, input=line + b"\n", capture_output=True, timeout=60, check=False)

    @contextmanager
    def trust(self) -> Iterator[Trust]:
        self.layout.create()
        root = Path(self.settings.store.root or "").read_bytes()
        with (
            closing(open_store(self.settings.store)) as store,
            Trust(self.layout.trust, store, root, Times(datetime.now(UTC))) as trust,
        ):
            yield trust

    def with_store(self, **fields: object) -> "Device":
        return Device(replace(self.settings, store=replace(self.settings.store, **fields)))  # type: ignore[arg-type]


def in_days(days: float) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)
