"""Compressed files on their way from a package to a device, over a real web server."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from edge_agent.documents.errors import ArtifactError, StorageError, StoreUnreachableError
from edge_agent.documents.manifest import Manifest
from edge_agent.documents.plan import VersionPlan
from edge_agent.store import packing
from edge_fleet import artifacts
from edge_fleet.publish import Published, publish, read_package
from support.tiny_fleet import Device, Fleet, Packed, build_package

CONTENT = bytes(2_000_000) + os.urandom(500_000)


def packed(content: bytes = CONTENT, claimed: bytes | None = None, garbage: bytes = b"") -> Packed:
    return Packed(packing.library().compress(content) + garbage, content if claimed is None else claimed)


@contextmanager
def unchecked() -> Iterator[None]:
    """Read packages as a tool would that looks into nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "check_packed", lambda path, file: None)
        patch.setattr(artifacts, "check_contents", lambda manifest, blob: None)
        yield


def release(fleet: Fleet, file: Packed, *, checked: bool = True) -> Published:
    """Publish and deploy version 1; unchecked as a broken tool would do."""
    folder = build_package(fleet.folder, packed=file)
    if checked:
        package = read_package(folder)
    else:
        with unchecked():
            package = read_package(folder)
    published = publish(fleet.repository, [package], fleet.keys, fleet.now)[0]
    fleet.deploy("digits=1")
    return published


def planned(device: Device) -> VersionPlan:
    plan = device.sync().plan
    assert plan is not None
    return plan.versions[0]


def test_the_content_is_what_the_device_keeps_and_plans(fleet: Fleet, device: Device) -> None:
    file = packed()
    published = release(fleet, file)
    result = device.sync_child()
    assert result.status == "plan", result.message
    assert result.plan is not None
    (version,) = result.plan.versions
    assert version.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert version.size_bytes == len(CONTENT)
    assert Path(version.path).read_bytes() == CONTENT
    assert result.downloaded_bytes == published.size_bytes < len(CONTENT) // 3
    kept = {path.name for path in device.layout.blobs.glob("??/*")}
    assert kept == set(version.files)
    assert not list(device.layout.staging.iterdir())


def test_without_news_the_library_is_not_imported_and_nothing_is_fetched(fleet: Fleet, device: Device) -> None:
    release(fleet, packed())
    plan = device.sync().plan
    assert plan is not None
    line = msgspec.json.encode(device.request(known_plans=(plan.id,)))
    command = [sys.executable, "-X", "importtime", "-m", "edge_agent.control.sync"]
    child = subprocess.run(command, input=line, capture_output=True, timeout=60, check=True)
    assert b'"status":"unchanged"' in child.stdout
    assert b"zstd" not in child.stderr


def test_a_damaged_file_is_fetched_and_unpacked_again(fleet: Fleet, device: Device) -> None:
    release(fleet, packed())
    version = planned(device)
    Path(version.path).unlink()
    assert Path(planned(device).path).read_bytes() == CONTENT


def test_a_truncated_download_is_continued(fleet: Fleet, device: Device, requests: list[str]) -> None:
    file = packed()
    release(fleet, file)
    blob = fleet.blob(hashlib.sha256(file.blob).hexdigest())
    blob.write_bytes(file.blob[:200_000])
    with pytest.raises(StoreUnreachableError, match="ended after 200000 of"):
        device.sync()
    blob.write_bytes(file.blob)
    requests.clear()
    assert Path(planned(device).path).read_bytes() == CONTENT
    assert sum(f'{blob.name} HTTP/1.1" 206' in line for line in requests) == 1


def test_a_download_that_is_whole_is_unpacked_without_fetching(
    fleet: Fleet, device: Device, requests: list[str]
) -> None:
    file = packed()
    release(fleet, file)
    device.layout.create()
    digest = hashlib.sha256(file.blob).hexdigest()
    (device.layout.staging / f"{digest}.part").write_bytes(file.blob)
    assert Path(planned(device).path).read_bytes() == CONTENT
    assert not any(digest in line for line in requests)


@pytest.mark.parametrize(
    ("file", "what"),
    [
        (packed(claimed=CONTENT[:-1]), "unpacks to more than the 2499999 bytes that were signed"),
        (packed(claimed=CONTENT + b"x"), "unpacks to 1 bytes less than were signed"),
        (packed(garbage=b"more"), "goes on after the end of its frame"),
        (packed(claimed=CONTENT[::-1]), "which was signed"),
        (Packed(packed().blob[:-100], CONTENT), "ends in the middle of its frame"),
        (Packed(CONTENT, CONTENT), "is damaged"),
    ],
    ids=["bomb", "short", "garbage", "other content", "truncated", "no frame"],
)
def test_what_was_signed_wrongly_is_refused_and_fetched_once(
    fleet: Fleet, device: Device, requests: list[str], file: Packed, what: str
) -> None:
    release(fleet, file, checked=False)
    for _ in range(2):
        with pytest.raises(ArtifactError, match=what):
            device.sync()
    digest = hashlib.sha256(file.blob).hexdigest()
    assert sum(digest in line for line in requests) == 1
    assert not device.layout.blob(hashlib.sha256(file.content).hexdigest()).exists()
    assert not list(device.layout.staging.glob("*.unpacked"))


def test_a_device_whose_disk_has_no_room_for_the_content_fetches_nothing(
    fleet: Fleet, device: Device, requests: list[str]
) -> None:
    folder = build_package(fleet.folder, packed=packed())
    path = folder / "manifest.json"
    manifest = Manifest.model_validate_json(path.read_bytes())
    variant = manifest.variants[0]
    large = variant.model_copy(update={"file": variant.file.model_copy(update={"content_size_bytes": 2**33})})
    path.write_text(manifest.model_copy(update={"variants": (large,)}).model_dump_json(by_alias=True))
    with unchecked():
        publish(fleet.repository, [read_package(folder)], fleet.keys, fleet.now)
    fleet.deploy("digits=1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edge_agent.store.blobs._RESERVE_BYTES", _free_bytes(device) - 2**32)
        with pytest.raises(StorageError, match=r"too full for 8192\.\d MiB of downloads"):
            device.with_store(max_file_bytes=2**33).sync()
    assert not any("/blobs/" in line for line in requests)


def _free_bytes(device: Device) -> int:
    device.layout.create()
    disk = os.statvfs(device.layout.staging)
    return disk.f_bavail * disk.f_frsize


def test_without_the_library_the_reason_is_told(
    fleet: Fleet, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    release(fleet, packed())
    monkeypatch.setattr(packing, "readable", lambda: frozenset({"none"}))
    with pytest.raises(Exception, match="compressed with zstd, for which no library is installed"):
        device.sync()


@pytest.mark.parametrize(
    "file", [packed(claimed=CONTENT[:-1]), packed(garbage=b"x"), packed(claimed=CONTENT[::-1])]
)
def test_publishing_refuses_what_does_not_unpack_to_what_is_signed(fleet: Fleet, file: Packed) -> None:
    with pytest.raises(ArtifactError, match="build the version again"):
        read_package(build_package(fleet.folder, packed=file))
