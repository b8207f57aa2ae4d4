import errno
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from converters import compress, package
from edge_agent.documents.errors import DocumentError, RequestError, StorageError
from edge_agent.documents.manifest import Manifest, Source, Tensor, Variant, blob_path

TENSOR = Tensor(name="x", datatype="FP32", shape=(-1, 2))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"model")
    return path


def manifest(model: Path, hour: int = 1, latency_ms: float = 1.0, agreement: float = 1.0) -> Manifest:
    file = compress.plain(model)
    metrics = {"agreement": agreement, "latency_ms": latency_ms}
    return Manifest(
        name="model",
        version="1",
        timestamp=datetime(2026, 1, 1, hour, tzinfo=UTC),
        source=Source(framework="onnx", sha256=file.sha256),
        inputs=(TENSOR,),
        outputs=(TENSOR,),
        variants=(Variant(engine="onnx", precision="fp32", file=file, metrics=metrics),),
    )


def test_package_holds_manifest_and_blobs(tmp_path: Path, model: Path) -> None:
    written = manifest(model)
    sha256 = written.variants[0].file.sha256

    folder, is_new = package.write_package(tmp_path / "out", written, {sha256: model}, {})

    assert is_new
    assert folder == tmp_path / "out/model/1"
    assert package.read_manifest(folder) == written
    assert (folder / blob_path(sha256)).read_bytes() == b"model"
    assert [path.name for path in folder.parent.iterdir()] == ["1"]
    assert folder.stat().st_mode & 0o777 == 0o755


def test_same_but_for_time_and_latency_is_left_alone(tmp_path: Path, model: Path) -> None:
    folder, _ = package.write_package(tmp_path, manifest(model), {}, {})
    before = (folder / "manifest.json").read_bytes()

    assert package.write_package(tmp_path, manifest(model, hour=2, latency_ms=9.0), {}, {}) == (folder, False)
    assert (folder / "manifest.json").read_bytes() == before


def test_other_content_is_refused(tmp_path: Path, model: Path) -> None:
    package.write_package(tmp_path, manifest(model), {}, {})

    with pytest.raises(RequestError, match="give another --version"):
        package.write_package(tmp_path, manifest(model, agreement=0.9), {}, {})


@pytest.mark.parametrize(
    ("code", "said"), [(errno.ENOSPC, "free some space"), (errno.EACCES, "check the folder")]
)
def test_failing_disk_leaves_nothing(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, code: int, said: str
) -> None:
    def fail(source: Path, target: Path) -> None:
        Path(target).write_bytes(b"half")
        raise OSError(code, "it failed")

    monkeypatch.setattr(shutil, "copyfile", fail)

    with pytest.raises(StorageError, match=said):
        package.write_package(tmp_path / "a/b", manifest(model), {"0" * 64: model}, {})
    assert not (tmp_path / "a").exists()


def test_folders_of_others_stay(tmp_path: Path, model: Path) -> None:
    other = tmp_path / "out/model/0"
    other.mkdir(parents=True)

    with pytest.raises(StorageError):
        package.write_package(tmp_path / "out", manifest(model), {"0" * 64: tmp_path / "missing"}, {})

    assert [path.name for path in other.parent.iterdir()] == ["0"]


def test_damaged_manifest_is_named(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{")

    with pytest.raises(DocumentError, match="is not a manifest"):
        package.read_manifest(tmp_path)
