"""New versions that a device makes from old ones: fetched instead of the whole, and never trusted."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from edge_agent.documents.deployment import Rollout
from edge_agent.documents.errors import DownloadPausedError, StoreUnreachableError
from edge_agent.documents.manifest import PATCH_LIMIT_BYTES, patch_path
from edge_agent.documents.plan import VersionPlan
from edge_agent.store import packing
from edge_fleet.garbage import collect_garbage
from edge_fleet.publish import Published, publish, read_package
from edge_fleet.retire import retire
from support.bad_store import Handler, Mischief, Server
from support.tiny_fleet import Device, Fleet, Packed, build_package

SIZE = 1_000_000
OLD = os.urandom(SIZE)
NEW = OLD[:500_000] + os.urandom(20_000) + OLD[520_000:]
GOLDEN = 1000


@dataclass
class Site:
    """A fleet, and a device that has version 1."""

    fleet: Fleet
    device: Device
    old: VersionPlan
    server: Server

    def release(self, content: bytes = NEW, version: str = "2", **package: Any) -> Published:
        published = publish_version(self.fleet, version, content=content, **package)
        self.fleet.deploy(f"digits={version}")
        return published

    def update(self, **fields: object) -> tuple[VersionPlan, int]:
        """Sync as the supervisor does; return what is planned, and how many bytes of files came."""
        result = self.device.sync(have={"digits": (self.old.sha256,)}, **fields)
        assert result.plan is not None
        (version,) = result.plan.versions
        return version, result.downloaded_bytes

    @property
    def patches(self) -> list[Path]:
        return [path for path in self.fleet.store.glob("patches/*/*/*") if path.is_file()]


def publish_version(fleet: Fleet, version: str, **package: Any) -> Published:
    folder = build_package(fleet.folder, version=version, **package)
    return publish(fleet.repository, [read_package(folder)], fleet.keys, fleet.now)[0]


@pytest.fixture
def site(fleet: Fleet, device: Device) -> Iterator[Site]:
    assert publish_version(fleet, "1", content=OLD).patches == 0
    fleet.deploy("digits=1")
    with Server(fleet.store, Path("none")) as server:
        here = device.with_store(url=server.url, timeout_s=0.5)
        plan = here.sync().plan
        assert plan is not None
        yield Site(fleet, here, plan.versions[0], server)


def test_only_what_differs_is_fetched(site: Site) -> None:
    assert site.release().patches == 1
    version, came = site.update()
    assert Path(version.path).read_bytes() == NEW
    assert 20_000 + GOLDEN < came < 23_000 + GOLDEN
    last = site.device.progress[-1]
    assert last.done_bytes == last.total_bytes == came
    assert not list(site.device.layout.staging.iterdir())


def test_compressed_files_are_patched_by_what_they_hold(site: Site) -> None:
    def packed(content: bytes) -> Packed:
        return Packed(packing.library().compress(content), content)

    old = bytes(2_000_000) + os.urandom(400_000)
    site.release(version="2", packed=packed(old))
    site.old, _ = site.update()
    assert Path(site.old.path).read_bytes() == old
    assert site.release(version="3", packed=packed(old[:-10_000] + os.urandom(10_000))).patches == 1
    version, came = site.update()
    assert version.version == "3"
    assert came < 12_000 + GOLDEN


def test_patches_are_made_from_every_deployed_version_and_from_no_other(fleet: Fleet) -> None:
    for version in ("1", "2", "3"):
        publish_version(fleet, version, content=OLD + os.urandom(1000))
    fleet.deploy("digits=1")
    fleet.deploy("digits=2", group="south")
    assert publish_version(fleet, "4", content=OLD + os.urandom(1000)).patches == 2


def test_a_candidate_counts_as_deployed(fleet: Fleet) -> None:
    for version in ("1", "2"):
        publish_version(fleet, version, content=OLD + os.urandom(1000))
    fleet.deploy("digits=1")
    fleet.deploy(candidate={"digits": fleet.arms("2")}, percentage=10.0)
    assert Rollout(salt="s").window is None
    assert publish_version(fleet, "3", content=OLD + os.urandom(1000)).patches == 2


@pytest.mark.slow
def test_no_patch_is_made_that_saves_little_or_asks_for_much_memory(site: Site, fleet: Fleet) -> None:
    assert publish_version(fleet, "2", content=OLD[:400_000] + os.urandom(600_000)).patches == 0
    assert publish_version(fleet, "3", content=bytes(PATCH_LIMIT_BYTES + 1)).patches == 0
    assert site.patches == []


def test_a_lost_blob_of_a_deployed_version_does_not_stop_publishing(site: Site, fleet: Fleet) -> None:
    fleet.blob(site.old.sha256).unlink()
    assert site.release().patches == 0
    assert site.update()[1] == SIZE + GOLDEN


def test_without_an_old_file_or_a_patch_the_whole_is_fetched(site: Site) -> None:
    site.release()
    Path(site.old.path).unlink()
    assert site.update()[1] == SIZE + GOLDEN


def test_a_download_that_has_begun_is_continued(site: Site) -> None:
    site.release()
    (patch,) = site.patches
    sha256 = patch.parent.name
    (site.device.layout.staging / f"{sha256}.part").write_bytes(NEW[:990_000])
    assert site.update()[1] == 10_000 + GOLDEN


def test_a_patch_goes_with_the_old_version(site: Site) -> None:
    site.release()
    fleet, later = site.fleet, site.fleet.now + timedelta(days=8)
    collect_garbage(fleet.repository, later, timedelta(days=7))
    assert len(site.patches) == 1
    retire(fleet.repository, fleet.keys, ("digits",), 1, fleet.now)
    collect_garbage(fleet.repository, later, timedelta(days=7))
    assert site.patches == []
    assert not fleet.blob(site.old.sha256).exists()
    assert site.update()[1] == SIZE + GOLDEN


# --- patches that lie -------------------------------------------------------------------------------------


def garbage(handler: Handler, content: bytes, offset: int) -> None:
    handler.answer(200, os.urandom(len(content)))


def of_another_file(handler: Handler, content: bytes, offset: int) -> None:
    handler.answer(200, packing.make_patch(OLD[::-1], OLD, 3)[:400_000])


def another_file(handler: Handler, content: bytes, offset: int) -> None:
    handler.answer(200, packing.make_patch(OLD, OLD, 3))


def bomb(handler: Handler, content: bytes, offset: int) -> None:
    handler.answer(200, packing.make_patch(bytes(500_000_000), b"", 1))


def endless(handler: Handler, content: bytes, offset: int) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    while True:
        handler.wfile.write(b"10000\r\n" + b"x" * 65_536 + b"\r\n")


def cut_short(handler: Handler, content: bytes, offset: int) -> None:
    handler.answer(200, content[:10_000], length=len(content))


def stalls(handler: Handler, content: bytes, offset: int) -> None:
    handler.answer(200, content[:10_000], length=len(content))
    handler.connection.recv(1)


def busy(handler: Handler, content: bytes, offset: int) -> None:
    handler.answer(503, fields={"Retry-After": "60"})


def portal(handler: Handler, content: bytes, offset: int) -> None:
    handler.answer(200, b"<html>", {"Content-Type": "text/html"})


@pytest.mark.parametrize(
    "mischief",
    [garbage, of_another_file, another_file, bomb, endless, busy, portal],
    ids=lambda mischief: mischief.__name__,
)
def test_a_bad_patch_costs_a_try_and_no_more(site: Site, mischief: Mischief) -> None:
    site.release()
    (site.server.victim,) = site.patches
    site.server.mischief = mischief
    version, came = site.update()
    assert Path(version.path).read_bytes() == NEW
    assert SIZE + GOLDEN <= came <= 1.6 * SIZE + GOLDEN
    assert len(site.server.offsets) == 1
    assert {path.name for path in site.device.layout.blobs.glob("??/*")} >= set(version.files)
    assert not list(site.device.layout.staging.iterdir())


@pytest.mark.parametrize("mischief", [cut_short, stalls], ids=lambda mischief: mischief.__name__)
def test_a_patch_that_always_breaks_at_the_same_place_costs_two(site: Site, mischief: Mischief) -> None:
    site.release()
    (site.server.victim,) = site.patches
    site.server.mischief = mischief
    with pytest.raises(StoreUnreachableError):
        site.update()
    version, _ = site.update()
    assert Path(version.path).read_bytes() == NEW
    assert site.server.offsets == [0, 10_000]
    assert not list(site.device.layout.staging.iterdir())


def test_a_damaged_old_file_makes_no_new_one(site: Site) -> None:
    site.release()
    Path(site.old.path).write_bytes(os.urandom(SIZE))
    version, came = site.update()
    assert Path(version.path).read_bytes() == NEW
    assert SIZE + GOLDEN < came < SIZE + GOLDEN + 23_000


def test_a_patch_counts_for_the_budget_and_waits_for_it(site: Site) -> None:
    site.release()
    spent = Site(site.fleet, site.device.with_store(budget_bytes=1), site.old, site.server)
    with pytest.raises(DownloadPausedError):
        spent.update()
    paid = replace(site, device=site.device.with_store(budget_bytes=200_000))
    assert paid.update()[1] < 30_000


def test_a_patch_pauses_at_the_budget_and_goes_on(site: Site) -> None:
    site.release(OLD[:500_000] + os.urandom(300_000) + OLD[800_000:])
    (site.server.victim,) = site.patches
    paid = replace(site, device=site.device.with_store(budget_bytes=150_000, budget_period="day"))
    with pytest.raises(DownloadPausedError):
        paid.update()
    (part,) = site.device.layout.staging.glob("*.patch")
    kept = part.stat().st_size
    assert kept > 100_000
    richer = replace(site, device=site.device.with_store(budget_bytes=10_000_000, budget_period="day"))
    version, came = richer.update()
    assert Path(version.path).stat().st_size == SIZE
    assert site.server.offsets == [0, kept]
    assert came < 310_000 - kept + GOLDEN
    assert not list(site.device.layout.staging.iterdir())


def test_its_name_says_from_what_it_makes_what(site: Site) -> None:
    site.release()
    (patch,) = site.patches
    version, _ = site.update()
    assert patch.relative_to(site.fleet.store).as_posix() == patch_path(version.sha256, site.old.sha256)
