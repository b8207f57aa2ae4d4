"""Regions of shared memory: every range is checked, and nobody gets at what is not theirs."""

import errno
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_agent.documents.errors import (
    ForbiddenError,
    NotFoundError,
    PayloadTooLargeError,
    RequestError,
    UnavailableError,
)
from edge_agent.documents.settings import SharedMemorySettings
from edge_agent.serving.shared_memory import RegionAccess, Regions

ME = os.geteuid()
SIZE = 64
MOST_BYTES = 2**80


@pytest.fixture
def regions(tmp_path: Path) -> Iterator[Regions]:
    (tmp_path / "mem").write_bytes(bytes(range(SIZE)))
    held = Regions(SharedMemorySettings(enabled=True, max_regions=5), MOST_BYTES, tmp_path)
    yield held
    held.close()


def test_what_is_written_can_be_read(regions: Regions) -> None:
    regions.register(ME, "r", "/mem", 8, 32)
    assert regions.read(ME, "r", 4, 4).tolist() == [12, 13, 14, 15]
    regions.write(ME, "r", 4, 10, memoryview(b"\xff\xfe"))
    assert regions.read(ME, "r", 3, 4).tolist() == [11, 255, 254, 14]
    assert regions.status(ME, "r") == [{"name": "r", "key": "/mem", "offset": 8, "byte_size": 32}]


def test_a_region_is_one_users(regions: Regions) -> None:
    regions.register(ME, "r", "mem", 0, SIZE)
    for other in (ME + 1, None):
        for use in (
            lambda uid: regions.read(uid, "r", 0, 1),
            lambda uid: regions.write(uid, "r", 0, 1, memoryview(b"x")),
            lambda uid: regions.check(uid, "r", 0, 1),
            lambda uid: regions.status(uid, "r"),
        ):
            with pytest.raises(NotFoundError, match="no shared memory region 'r' of yours"):
                use(other)
        assert regions.status(other, None) == []
        regions.unregister(other, "r")
        regions.unregister(other, None)
    assert len(regions.status(ME, None)) == 1
    regions.unregister(ME, "r")
    assert regions.status(ME, None) == []
    regions.unregister(ME, "r")


@pytest.mark.parametrize(
    ("key", "error"),
    [
        ("/none", NotFoundError),
        ("", RequestError),
        ("/", RequestError),
        ("..", RequestError),
        ("/../mem", RequestError),
        ("a/b", RequestError),
        ("//mem", RequestError),
        ("x" * 300, RequestError),
        ("nul\0", RequestError),
        ("link", ForbiddenError),
        ("folder", ForbiddenError),
        ("fifo", ForbiddenError),
    ],
)
def test_a_key_that_names_no_shared_memory(
    regions: Regions, tmp_path: Path, key: str, error: type[Exception]
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "mem")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(error):
        regions.register(ME, "r", key, 0, 1)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_memory_must_be_the_users_own(regions: Regions, tmp_path: Path) -> None:
    for uid in (ME + 1, 12345):
        with pytest.raises(ForbiddenError, match="is not yours"):
            regions.register(uid, "r", "mem", 0, 1)
    (tmp_path / "mem").chmod(0o666)
    with pytest.raises(ForbiddenError, match="is not yours"):
        regions.register(ME + 1, "r", "mem", 0, 1)
    regions.register(None, "tcp", "mem", 0, 1)


@pytest.mark.skipif(ME != 0, reason="to give a file away takes root, which CI has")
def test_over_tcp_memory_must_be_the_agents_or_open_to_all(regions: Regions, tmp_path: Path) -> None:
    os.chown(tmp_path / "mem", 12345, -1)
    for mode in (0o600, 0o660, 0o664):
        (tmp_path / "mem").chmod(mode)
        with pytest.raises(ForbiddenError, match="is not yours"):
            regions.register(None, "r", "mem", 0, 1)
    (tmp_path / "mem").chmod(0o666)
    regions.register(None, "r", "mem", 0, 1)
    regions.register(12345, "r", "mem", 0, 1)
    assert stat.S_IMODE((tmp_path / "mem").stat().st_mode) == 0o666


def test_there_are_limits_and_a_name_is_taken_once(regions: Regions, tmp_path: Path) -> None:
    for name in "abc":
        regions.register(ME, name, "mem", 0, 1)
    with pytest.raises(RequestError, match="registered already"):
        regions.register(ME, "a", "mem", 0, 1)
    with pytest.raises(RequestError, match="3 regions of yours are registered, which is the most for one user"):
        regions.register(ME, "d", "mem", 0, 1)
    (tmp_path / "mem").chmod(0o666)
    for name in "ab":
        regions.register(None, name, "mem", 0, 1)
    with pytest.raises(RequestError, match="5 regions are registered, which is the most"):
        regions.register(None, "c", "mem", 0, 1)
    with pytest.raises(RequestError, match="needs a name"):
        regions.register(ME, "", "mem", 0, 1)


def test_nothing_works_unless_it_is_switched_on(tmp_path: Path) -> None:
    off = Regions(SharedMemorySettings(), MOST_BYTES, tmp_path)
    for use in (
        lambda: off.register(ME, "r", "mem", 0, 1),
        lambda: off.status(ME, None),
        lambda: off.unregister(ME, None),
    ):
        with pytest.raises(RequestError, match=r"set shared_memory\.enabled"):
            use()


def test_memory_that_has_shrunk_is_told_and_never_grown(regions: Regions, tmp_path: Path) -> None:
    regions.register(ME, "r", "mem", 0, SIZE)
    os.truncate(tmp_path / "mem", 10)
    assert regions.read(ME, "r", 0, 10).tolist() == list(range(10))
    with pytest.raises(RequestError, match="has become smaller"):
        regions.read(ME, "r", 0, 11)
    with pytest.raises(RequestError, match="has become smaller"):
        regions.write(ME, "r", 8, 4, memoryview(b"abcd"))
    assert (tmp_path / "mem").stat().st_size == 10


def test_memory_that_cannot_be_written_is_for_inputs_alone(regions: Regions, tmp_path: Path) -> None:
    """The file of a program that runs cannot be written, not even by root."""
    program = tmp_path / "program"
    shutil.copy(shutil.which("sleep") or "", program)
    with subprocess.Popen([program, "60"]) as running:
        try:
            regions.register(ME, "r", "program", 0, SIZE)
            assert regions.read(ME, "r", 0, 4).tobytes() == b"\x7fELF"
            for use in (
                lambda: regions.check(ME, "r", 0, 4),
                lambda: regions.write(ME, "r", 0, 4, memoryview(b"no")),
            ):
                with pytest.raises(RequestError, match="may read region 'r', but not write outputs"):
                    use()
        finally:
            running.kill()


def test_faults_of_the_file_system_are_told(regions: Regions, monkeypatch: pytest.MonkeyPatch) -> None:
    regions.register(ME, "r", "mem", 0, SIZE)

    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "preadv", fail)
    monkeypatch.setattr(os, "pwritev", fail)
    with pytest.raises(RequestError, match=r"cannot be read \(No space left on device\)"):
        regions.read(ME, "r", 0, 1)
    with pytest.raises(RequestError, match=r"cannot be written \(No space left on device\)"):
        regions.write(ME, "r", 0, 1, memoryview(b"x"))


def test_the_inputs_of_a_request_are_bounded_together(regions: Regions) -> None:
    regions.register(ME, "r", "mem", 0, SIZE)
    regions.max_request_bytes = 10
    for has_room in (True, False):
        access = RegionAccess(regions, lambda: ME, lambda size_bytes, has_room=has_room: has_room)
        if not has_room:
            with pytest.raises(UnavailableError, match="all clients together"):
                access.read("r", 0, 6)
            continue
        assert access.read("r", 0, 6).nbytes == 6
        with pytest.raises(PayloadTooLargeError, match="larger than 10 bytes together; send less"):
            access.read("r", 0, 5)
        assert access.read("r", 0, 4).nbytes == 4


NUMBERS = st.one_of(st.integers(0, 80), st.sampled_from([2**31, 2**62, 2**63 - 1]))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(NUMBERS, NUMBERS, NUMBERS, NUMBERS)
def test_no_range_reaches_beyond_its_region(
    regions: Regions, tmp_path: Path, first: int, size: int, offset: int, count: int
) -> None:
    regions.unregister(ME, None)
    content = bytes(range(SIZE))
    (tmp_path / "mem").write_bytes(content)
    if size < 1 or first + size > SIZE:
        with pytest.raises(RequestError):
            regions.register(ME, "r", "mem", first, size)
        return
    regions.register(ME, "r", "mem", first, size)
    if offset + count > size:
        with pytest.raises(RequestError, match="would end at"):
            regions.read(ME, "r", offset, count)
        with pytest.raises(RequestError, match="would end at"):
            regions.write(ME, "r", offset, count, memoryview(b"x"))
    else:
        assert (
            regions.read(ME, "r", offset, count).tobytes() == content[first + offset : first + offset + count]
        )
        with pytest.raises(RequestError, match=f"its place in region 'r' has {count}"):
            regions.write(ME, "r", offset, count, memoryview(bytes(count + 1)))
    assert (tmp_path / "mem").read_bytes() == content
