"""Regions of shared memory: every range is checked, and nobody gets at what is not theirs."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_agent.documents.errors import ForbiddenError, NotFoundError, RequestError
from edge_agent.documents.settings import SharedMemorySettings
from edge_agent.serving.shared_memory import Regions

ME = os.geteuid()
SIZE = 64


@pytest.fixture
def regions(tmp_path: Path) -> Iterator[Regions]:
    (tmp_path / "mem").write_bytes(bytes(range(SIZE)))
    held = Regions(SharedMemorySettings(enabled=True, max_regions=3), tmp_path)
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


def test_there_is_a_limit_and_a_name_is_taken_once(regions: Regions) -> None:
    for name in "abc":
        regions.register(ME, name, "mem", 0, 1)
    with pytest.raises(RequestError, match="registered already"):
        regions.register(ME, "a", "mem", 0, 1)
    with pytest.raises(RequestError, match="3 regions are registered, which is the most"):
        regions.register(ME, "d", "mem", 0, 1)


def test_nothing_works_unless_it_is_switched_on(tmp_path: Path) -> None:
    off = Regions(SharedMemorySettings(), tmp_path)
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
