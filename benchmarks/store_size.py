"""What a device's look at a large store moves: 10,000 published versions of 50 models.

    python -m benchmarks.store_size [--json]

All versions are published in one go, and `edge-fleet retire` keeps 50 of each model. Then devices that run 1,
10 and all 50 of the models look at the store by HTTP, through the agent's own trust module: for the first time,
and again after one new version of one model has been deployed. Counted are the bytes that HTTP moves, with
headers, of metadata, deployment and manifests; the models' files come on top.
"""

import argparse
import hashlib
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.footprint import Row, tell
from edge_agent.control.fetch import open_store
from edge_agent.control.trust import Trust
from edge_agent.documents.deployment import GROUPS_TARGET, deployment_path
from edge_agent.documents.manifest import File, Manifest, Requirements, Source, Tensor, Variant, blob_path
from edge_agent.documents.settings import StoreSettings
from edge_agent.policy.trusted_time import Times
from edge_fleet.deploy import Change, deploy, parse_arms
from edge_fleet.keys import KeyFolder
from edge_fleet.publish import Package, publish
from edge_fleet.repository import Repository
from edge_fleet.retire import retire
from edge_fleet.static_server import StaticServer

MODELS = 50
VERSIONS = 200
KEPT = 50
TARGET_KB = 200
NOW = datetime.now(UTC)


class LargeStore:
    """The store, and who publishes to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "store"
        self.repository = Repository(self.folder)
        self.keys = KeyFolder(folder / "keys")
        self._package = folder / "package"
        blob = b"a model of some bytes"
        self._file = File(sha256=hashlib.sha256(blob).hexdigest(), size_bytes=len(blob))
        path = self._package / blob_path(self._file.sha256)
        path.parent.mkdir(parents=True)
        path.write_bytes(blob)

    def package(self, model: int, version: int) -> Package:
        built = NOW - timedelta(days=VERSIONS - version)
        manifest = Manifest(
            name=f"model-{model:02}",
            version=f"{built:%Y%m%d_%H%M%S}",
            timestamp=built,
            source=Source(framework="onnx", sha256="0" * 64),
            inputs=(Tensor(name="x", datatype="FP32", shape=(-1, 64)),),
            outputs=(Tensor(name="y", datatype="FP32", shape=(-1, 10)),),
            variants=tuple(
                Variant(
                    engine="onnx",
                    precision=precision,
                    file=self._file,
                    requires=Requirements(runtimes=("onnxruntime",)),
                )
                for precision in ("int8", "fp32")
            ),
        )
        return Package(self._package, manifest.model_dump_json(by_alias=True).encode(), manifest)

    def publish(self, packages: list[Package]) -> None:
        publish(self.repository, packages, self.keys, NOW)

    def deploy(self, group: str, packages: list[Package]) -> None:
        arms = [parse_arms(f"{package.manifest.name}={package.manifest.version}") for package in packages]
        deploy(self.repository, self.keys, group, Change(models=dict(arms)), NOW)


class Looker:
    """A device of a group: what it must fetch to know what to run."""

    def __init__(self, folder: Path, group: str, url: str, root: bytes) -> None:
        self._folder = folder / group
        self._folder.mkdir()
        self._group = group
        self._settings = StoreSettings(url=url)
        self._root = root

    def look(self, packages: list[Package]) -> float:
        """Refresh, and read the deployment and the manifests of these; return the kB that HTTP moved."""
        moved: list[int] = []
        with (
            closing(open_store(self._settings, count=moved.append)) as store,
            Trust(self._folder, store, self._root, Times(datetime.now(UTC))) as trust,
        ):
            trust.refresh()
            paths = [package.manifest.target_path for package in packages]
            for path in (GROUPS_TARGET, deployment_path(self._group), *paths):
                if trust.target(path) is None:
                    raise SystemExit(f"The store does not list {path}.")
        return sum(moved) / 1000


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    server = StaticServer(folder, "127.0.0.1", 0, lambda _: None)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), name="static server", daemon=True)
    thread.start()
    try:
        yield server.url
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def measure(folder: Path) -> Iterator[Row]:
    store = LargeStore(folder)
    store.repository.create(store.keys, NOW)
    packages = [[store.package(model, version) for version in range(VERSIONS)] for model in range(MODELS)]
    started = time.perf_counter()
    store.publish([package for model in packages for package in model])
    yield Row("publishing 10,000 versions of 50 models", time.perf_counter() - started, "s", 600)
    groups = {f"runs-{count}": count for count in (1, 10, MODELS)}
    for group, count in groups.items():
        store.deploy(group, [model[-1] for model in packages[:count]])
    started = time.perf_counter()
    retire(store.repository, store.keys, (), KEPT, NOW)
    yield Row("retiring 7,500 of them", time.perf_counter() - started, "s", 600)
    root = store.repository.files.read("root.json")
    with serving(store.folder) as url:
        devices = {group: Looker(folder, group, url, root) for group in groups}
        for group, count in groups.items():
            moved = devices[group].look([model[-1] for model in packages[:count]])
            yield Row(f"first look of a device with {count} models", moved, "kB", TARGET_KB)
        new = store.package(0, VERSIONS)
        store.publish([new])
        for group in groups:
            store.deploy(group, [new])
        for group, count in groups.items():
            running = [new, *(model[-1] for model in packages[1:count])]
            yield Row(
                f"its look after one new version, {count} models", devices[group].look(running), "kB", TARGET_KB
            )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document with all rows")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = list(measure(Path(folder)))
    return tell(rows, args.json)


if __name__ == "__main__":
    sys.exit(main())
