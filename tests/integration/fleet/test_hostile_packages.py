"""Packages that would do harm on devices are refused before anybody signs them, with the reason."""

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from edge_agent.documents.errors import ArtifactError, DocumentError, ModelError
from edge_agent.documents.manifest import blob_path
from edge_agent.store import packing
from edge_fleet.publish import read_package
from support.models import affine_onnx, package


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = affine_onnx(tmp_path / "m.onnx", 2.0)
    return package(tmp_path / "package", model, name="m", version="1", factor=2.0)


def change(folder: Path, deed: Callable[[dict], None]) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    deed(manifest)
    path.write_text(json.dumps(manifest))


def put(folder: Path, content: bytes) -> dict:
    digest = hashlib.sha256(content).hexdigest()
    path = folder / blob_path(digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return {"sha256": digest, "size_bytes": len(content)}


def refused(folder: Path, says: str, kind: type[ModelError] = ArtifactError) -> None:
    with pytest.raises(kind) as error:
        read_package(folder)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def reader_of(location: str) -> bytes:
    tensor = TensorProto(name="c", data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "c"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, ["n", 3])],
        [value("y", TensorProto.FLOAT, ["n", 3])],
        [tensor],
    )
    return bytes(helper.make_model(graph).SerializeToString())


def bomb() -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (600 * 2**20,)}
    )
    content = io.BytesIO()
    with (
        zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("0/input/x.npy", "w", force_zip64=True) as member,
    ):
        member.write(header.getvalue())
        for _ in range(600):
            member.write(bytes(2**20))
    return content.getvalue()


def test_a_sound_package_is_taken(folder: Path) -> None:
    assert read_package(folder).manifest.name == "m"


@pytest.mark.parametrize("location", ["/etc/shadow", "../../../../etc/shadow", "weights.bin"])
def test_a_model_that_reads_other_files(folder: Path, location: str) -> None:
    file = put(folder, reader_of(location))
    change(folder, lambda manifest: manifest["variants"][0].update(file=file))
    refused(folder, "m 1, the onnx fp32 file: Its tensors are in other files (external data)")


def test_a_model_that_reads_other_files_and_travels_compressed(folder: Path) -> None:
    content = reader_of("/etc/shadow")
    file = put(folder, packing.library().compress(content)) | {
        "compression": "zstd",
        "content_sha256": hashlib.sha256(content).hexdigest(),
        "content_size_bytes": len(content),
    }
    change(folder, lambda manifest: manifest["variants"][0].update(file=file))
    refused(folder, "Its tensors are in other files")


def test_golden_samples_that_are_a_bomb(folder: Path) -> None:
    file = put(folder, bomb())
    assert file["size_bytes"] < 4 * 2**20
    change(folder, lambda manifest: manifest["golden"].update(file=file))
    refused(folder, "m 1: Its golden samples unpack to more than 512 MiB")


@pytest.mark.parametrize("name", ["/etc/passwd", "../../x", "0/input", "0/sideways/x"])
def test_golden_samples_with_names_from_elsewhere(folder: Path, name: str) -> None:
    content = io.BytesIO()
    np.savez(content, **{name: np.zeros(1)})
    file = put(folder, content.getvalue())
    change(folder, lambda manifest: manifest["golden"].update(file=file))
    refused(folder, "Its golden samples are malformed")


@pytest.mark.parametrize("kind", ["file", "folder", "pipe"])
def test_what_is_no_file_of_the_package(folder: Path, tmp_path: Path, kind: str) -> None:
    manifest = read_package(folder).manifest
    path = folder / blob_path(manifest.variants[0].file.sha256)
    if kind == "file":
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "folder":
        path.parent.rename(tmp_path / "elsewhere")
        path.parent.symlink_to(tmp_path / "elsewhere")
    else:
        path.unlink()
        os.mkfifo(path)
    refused(folder, "is a link to another place" if kind != "pipe" else "has 0 bytes")


def test_a_hard_link_is_a_file_of_its_own_content(folder: Path, tmp_path: Path) -> None:
    path = folder / blob_path(read_package(folder).manifest.variants[0].file.sha256)
    os.link(path, tmp_path / "link")
    assert read_package(folder).manifest.name == "m"
    (tmp_path / "link").write_bytes(b"x" * path.stat().st_size)
    refused(folder, "does not have the digest")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "../../etc"),
        ("name", "/etc"),
        ("name", "a/b"),
        ("version", "../1"),
        ("version", "/1"),
        ("version", ".."),
    ],
)
def test_names_that_lead_elsewhere(folder: Path, field: str, value: str) -> None:
    change(folder, lambda manifest: manifest.update({field: value}))
    refused(folder, field, DocumentError)


@pytest.mark.parametrize("digest", ["../../../etc/passwd", "/etc/passwd", "A" * 64, "0" * 63])
def test_digests_that_are_paths(folder: Path, digest: str) -> None:
    change(folder, lambda manifest: manifest["variants"][0]["file"].update(sha256=digest))
    refused(folder, "sha256", DocumentError)


def test_sizes_that_no_device_has(folder: Path) -> None:
    change(folder, lambda manifest: manifest["variants"][0]["file"].update(size_bytes=2**62))
    refused(folder, "size_bytes", DocumentError)
