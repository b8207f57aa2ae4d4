"""Rate limit, byte budget and download window, over a real web server."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from edge_agent.control.metering import Clocks
from edge_agent.documents.errors import DownloadPausedError
from edge_agent.documents.settings import UpdateSettings
from edge_agent.store.usage import UsageFile
from support.tiny_fleet import Device, Fleet

SIZE = 1_000_000
NOON = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
"""Of today, since the metadata that is made here is valid from now on."""


@dataclass
class Watch:
    """A clock that only stands on by what is slept."""

    now_s: float = NOON.timestamp()
    slept_s: list[float] = field(default_factory=list)

    @property
    def clocks(self) -> Clocks:
        return Clocks(lambda: self.now_s, lambda: self.now_s, self.sleep)

    def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.now_s += seconds


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield Watch()
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def published(fleet: Fleet) -> Path:
    """The model file of a million bytes in the store."""
    fleet.publish(size_bytes=SIZE)
    fleet.deploy("digits=1")
    (blob,) = (path for path in fleet.store.glob("blobs/sha256/*/*") if path.stat().st_size == SIZE)
    return blob


def limited(device: Device, **store: object) -> Device:
    return device.with_store(**store)


def staged_bytes(device: Device) -> int:
    return sum(part.stat().st_size for part in device.layout.staging.glob("*.part"))


def received_bytes(device: Device) -> int:
    """Bytes of files that are here, whole or in part."""
    return staged_bytes(device) + sum(path.stat().st_size for path in device.layout.blobs.glob("*/*"))


class TestRate:
    def test_files_come_no_faster_than_the_limit_by_a_given_clock(
        self, device: Device, published: Path, watch: Watch
    ) -> None:
        begun_s = watch.now_s
        limited(device, rate_limit_bytes_per_s=10_000).sync(clocks=watch.clocks)
        # All but the last piece of each file is paid for before the next.
        assert (SIZE - 65_536) / 10_000 <= watch.now_s - begun_s <= (SIZE + 1000) / 10_000

    def test_a_real_transfer_takes_its_time(self, device: Device, published: Path) -> None:
        begun_s = time.monotonic()
        result = limited(device, rate_limit_bytes_per_s=500_000).sync_child()
        took_s = time.monotonic() - begun_s
        assert result.downloaded_bytes == SIZE + 1000
        assert 1.8 <= took_s <= 8

    def test_a_folder_is_as_fast_as_it_is(
        self, device: Device, published: Path, fleet: Fleet, watch: Watch
    ) -> None:
        slow = limited(device, rate_limit_bytes_per_s=1024, budget_bytes=1)
        assert slow.sync(clocks=watch.clocks, folder=str(fleet.store)).status == "plan"
        assert watch.slept_s == []


class TestBudget:
    def test_a_download_pauses_at_the_budget_and_goes_on_in_the_next_period(
        self, device: Device, published: Path, watch: Watch, requests: list[str]
    ) -> None:
        metered = limited(device, budget_bytes=400_000, budget_period="day")
        tomorrow = NOON.date() + timedelta(days=1)
        says = (
            rf"The budget of 0\.3815 MiB a day is used up until ... {tomorrow} 00:00 UTC; what came is kept, "
            "and the download goes on then"
        )
        with pytest.raises(DownloadPausedError, match=says) as raised:
            metered.sync(clocks=watch.clocks)
        assert raised.value.until_s == datetime.combine(tomorrow, datetime.min.time(), UTC).timestamp()
        first = received_bytes(device)
        assert 300_000 < first < 400_000 + 65_536

        # Another try takes nothing but metadata, whose bytes are counted, too.
        requests.clear()
        with pytest.raises(DownloadPausedError):
            metered.sync(clocks=watch.clocks)
        assert received_bytes(device) == first
        assert not [line for line in requests if "/blobs/" in line]

        watch.now_s += 12 * 3600
        with pytest.raises(DownloadPausedError):
            metered.sync(clocks=watch.clocks)
        second = received_bytes(device)
        assert first + 300_000 < second < first + 400_000 + 65_536
        assert any(f'{published.name} HTTP/1.1" 206' in line for line in requests)

        watch.now_s += 24 * 3600
        assert metered.sync(clocks=watch.clocks).status == "plan"
        assert received_bytes(device) == SIZE + 1000

    def test_metadata_counts(self, device: Device, published: Path, watch: Watch) -> None:
        metered = limited(device, budget_bytes=10_000_000)
        metered.sync(clocks=watch.clocks)
        used = UsageFile(device.layout.usage).used_bytes(f"{NOON:%Y-%m}")
        metadata = sum(path.stat().st_size for path in device.layout.trust.rglob("*.json"))
        assert SIZE + 1000 < used < SIZE + 1000 + 2 * metadata + 20_000
        metered.sync(clocks=watch.clocks, force=True)
        again = UsageFile(device.layout.usage).used_bytes(f"{NOON:%Y-%m}")
        assert used + 500 < again < used + 20_000

    def test_a_killed_sync_has_counted_what_it_took(
        self, device: Device, published: Path, watch: Watch
    ) -> None:
        class Killed(BaseException):
            pass

        taken = 0

        def kill(progress: float) -> None:
            nonlocal taken
            taken = received_bytes(device)
            if taken > 500_000:
                raise Killed

        metered = limited(device, budget_bytes=64 * 2**20, rate_limit_bytes_per_s=1_000_000)
        # Nothing is tidied up: what is noted is what was noted before.
        noted: list[int] = []
        month = f"{NOON:%Y-%m}"

        def sleep(seconds: float) -> None:
            noted.append(UsageFile(device.layout.usage).used_bytes(month))
            assert noted[-1] >= received_bytes(device)
            kill(seconds)

        with pytest.raises(Killed):
            metered.sync(clocks=replace(watch.clocks, sleep=sleep))
        assert taken > 500_000
        assert noted

    def test_an_operator_can_spend_more(self, device: Device, published: Path, watch: Watch) -> None:
        metered = limited(device, budget_bytes=400_000)
        assert metered.sync(clocks=watch.clocks, at_once=True).status == "plan"
        assert UsageFile(device.layout.usage).used_bytes(f"{NOON:%Y-%m}") > SIZE

    def test_the_child_tells_of_the_pause(self, device: Device, published: Path) -> None:
        result = limited(device, budget_bytes=400_000).sync_child()
        assert (result.status, result.kind, result.waits_for) == ("paused", "", "budget")
        assert result.until_s is not None
        assert result.until_s > time.time()
        assert "is used up until" in result.message

    def test_a_full_disk_does_not_keep_the_device_from_looking(
        self, device: Device, published: Path, watch: Watch
    ) -> None:
        metered = limited(device, budget_bytes=10_000_000)
        plan = metered.sync(clocks=watch.clocks).plan
        assert plan is not None
        device.layout.usage.unlink()
        device.layout.usage.mkdir()  # what cannot be replaced by a file, also for root
        (device.layout.usage / "x").touch()
        assert metered.sync(clocks=watch.clocks, known_plans=(plan.id,)).status == "unchanged"


class TestWindow:
    def windowed(self, device: Device, window: str) -> Device:
        updates = UpdateSettings(window=window, download_outside_window=False)
        return Device(replace(device.settings, updates=updates))

    def test_downloads_wait_for_the_window(self, device: Device, published: Path, watch: Watch) -> None:
        nightly = self.windowed(device, "02:00-05:00 UTC")
        with pytest.raises(
            DownloadPausedError, match="Downloads wait for the maintenance window that opens"
        ) as raised:
            nightly.sync(clocks=watch.clocks)
        assert raised.value.until_s == watch.now_s + 14 * 3600
        assert received_bytes(device) == 0
        watch.now_s += 14 * 3600
        assert nightly.sync(clocks=watch.clocks).status == "plan"

    def test_a_download_pauses_when_the_window_closes(
        self, device: Device, published: Path, watch: Watch
    ) -> None:
        slow = self.windowed(limited(device, rate_limit_bytes_per_s=10_000), "12:00-12:01 UTC")
        with pytest.raises(DownloadPausedError):
            slow.sync(clocks=watch.clocks)
        assert 500_000 < received_bytes(device) < 700_000
        assert watch.now_s - NOON.timestamp() < 70

    def test_an_operator_need_not_wait(self, device: Device, published: Path, watch: Watch) -> None:
        nightly = self.windowed(device, "02:00-05:00 UTC")
        assert nightly.sync(clocks=watch.clocks, at_once=True).status == "plan"

    def test_nothing_waits_where_nothing_is_to_be_fetched(
        self, device: Device, published: Path, watch: Watch
    ) -> None:
        assert device.sync().status == "plan"
        assert self.windowed(device, "02:00-05:00 UTC").sync(clocks=watch.clocks, force=True).status == "plan"


def test_the_limits_travel_to_the_child(device: Device) -> None:
    settings = limited(device, rate_limit_bytes_per_s=2048, budget_bytes=5, budget_period="day").settings
    request = msgspec.json.decode(msgspec.json.encode(device.request(settings=settings)))
    assert request["settings"]["store"]["budget_period"] == "day"
