"""A device whose clock is wrong: what it trusts, what it says, and that it recovers once the clock is right."""

import json
import shutil
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata

from edge_agent.control import sync
from edge_agent.control.fetch import HttpStore
from edge_agent.control.sync import attempt
from edge_agent.control.trust import Trust
from edge_agent.documents.errors import TrustError
from edge_agent.documents.settings import StoreSettings
from edge_agent.documents.timestamp_notes import timestamp_notes
from edge_agent.policy.trusted_time import Times
from edge_fleet.refresh import refresh
from support.tiny_fleet import Device, Fleet, in_days
from support.tuf_repository import TufRepository, serving

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FAR = datetime(2100, 1, 1, tzinfo=UTC)


@pytest.fixture
def running(fleet: Fleet, device: Device) -> Device:
    """A device that runs digits 1, and has so seen when the store was signed."""
    fleet.publish(version="1")
    fleet.deploy("digits=1")
    device.sync()
    return device


def proven(device: Device) -> datetime | None:
    time = json.loads((device.layout.trust / "versions.json").read_bytes()).get("proven")
    return None if time is None else datetime.fromisoformat(time)


class TestBehind:
    """The clock of a device without a battery, after a power cut."""

    def test_it_goes_on_and_says_so(self, running: Device, fleet: Fleet) -> None:
        fleet.deploy("digits=1")
        result = running.sync(now=EPOCH)
        assert result.status == "plan"
        (warning,) = result.warnings
        assert warning.startswith("This machine's clock says 1970-01-01 00:00 UTC, before ")
        assert running.sync(now=EPOCH).warnings == (warning,)

    def test_what_expired_before_the_store_was_signed_last_is_refused(
        self, running: Device, fleet: Fleet
    ) -> None:
        fleet.now -= timedelta(days=8)
        fleet.deploy("digits=1")
        with pytest.raises(TrustError, match="timestamp metadata expired on"):
            running.sync(now=EPOCH)

    def test_what_expired_before_the_installation_is_refused(self, device: Device, fleet: Fleet) -> None:
        fleet.now = datetime.fromtimestamp(Path(sync.__file__).stat().st_mtime, UTC) - timedelta(days=8)
        refresh(fleet.repository, fleet.keys, fleet.now)
        with pytest.raises(
            TrustError, match=r"timestamp metadata expired on .*; if that date is still to come"
        ):
            device.sync(now=EPOCH)

    def test_a_failure_says_it_too(self, running: Device) -> None:
        unreachable = running.with_store(url="http://127.0.0.1:1")
        result = attempt(unreachable.request(), EPOCH, lambda _: None)
        assert (result.status, result.kind) == ("failed", "network")
        assert "clock says 1970-01-01" in result.warnings[0]

    def test_the_time_that_was_proven_outlives_the_metadata(self, running: Device, fleet: Fleet) -> None:
        before = proven(running)
        shutil.rmtree((running.layout.trust / "current").resolve())
        fleet.now -= timedelta(days=8)
        fleet.deploy("digits=1")
        with pytest.raises(TrustError, match="timestamp metadata expired on"):
            running.sync(now=EPOCH)
        assert proven(running) == before == fleet.now.replace(microsecond=0) + timedelta(days=8)


class TestAhead:
    def test_it_fails_naming_the_clock_and_recovers_with_it(self, running: Device, fleet: Fleet) -> None:
        before = proven(running)
        fleet.deploy("digits=1")
        with pytest.raises(TrustError, match="set this machine's clock, which says 2100-01-01 00:00 UTC"):
            running.sync(now=FAR)
        assert proven(running) == before
        assert running.sync().status == "plan"

    def test_without_news_what_runs_goes_on_with_a_warning(self, running: Device) -> None:
        result = running.sync(now=FAR)
        assert result.status == "unchanged"
        assert "what runs goes on" in result.warnings[0]
        assert "clock, which says 2100-01-01" in result.warnings[0]

    def test_a_clock_that_is_days_ahead_is_not_remembered(self, running: Device, fleet: Fleet) -> None:
        fleet.deploy("digits=1")
        assert running.sync(now=in_days(5)).status == "plan"
        assert proven(running) == fleet.now.replace(microsecond=0)


class TestProvenTime:
    """What a signer says of the time."""

    def test_it_follows_the_newest_timestamp(self, running: Device, fleet: Fleet) -> None:
        first = proven(running)
        fleet.now += timedelta(hours=2)
        refresh(fleet.repository, fleet.keys, fleet.now)
        running.sync(force=True)
        assert first is not None
        assert proven(running) == first + timedelta(hours=2)

    def test_a_store_that_does_not_say_is_judged_by_the_clock(self, running: Device, fleet: Fleet) -> None:
        before = proven(running)
        sign_timestamp(fleet, in_days(7), None)
        assert running.sync(force=True).status == "plan"
        assert proven(running) == before

    def test_a_time_that_contradicts_the_expiry_does_not_count(self, running: Device, fleet: Fleet) -> None:
        before = proven(running)
        sign_timestamp(fleet, in_days(37), in_days(30))  # and the snapshot expires in 7
        assert running.sync(force=True).status == "plan"
        assert proven(running) == before

    def test_new_keys_free_it(self, fleet: Fleet, tmp_path: Path) -> None:
        """What a stolen timestamp key can do to the time ends with the key."""
        repository = TufRepository()
        folder = tmp_path / "trust"
        folder.mkdir()

        def refreshed() -> datetime | None:
            with serving(repository) as url, closing(HttpStore(StoreSettings(url=url))) as store:
                times = Times(datetime.now(UTC))
                with Trust(folder, store, repository.published["root"][0], times) as trust:
                    trust.refresh()
                    return trust.times.proven

        late = in_days(29).replace(microsecond=0)
        repository.timestamp.unrecognized_fields.update(timestamp_notes(late, 1))
        repository.publish("timestamp")
        assert refreshed() == late
        repository.timestamp.expires = in_days(7)
        repository.timestamp.unrecognized_fields.clear()
        repository.publish("timestamp")
        with pytest.raises(TrustError, match="replace the store's timestamp key"):
            refreshed()
        repository.replace_keys("timestamp")
        repository.publish("root", "timestamp")
        assert refreshed() is None


def sign_timestamp(fleet: Fleet, expires: datetime, signed: datetime | None) -> None:
    """Sign a new timestamp that says it was signed at this time, or does not say."""
    path = fleet.store / "metadata/timestamp.json"
    timestamp = Metadata.from_bytes(path.read_bytes())
    timestamp.signed.version += 1
    timestamp.signed.expires = expires.replace(microsecond=0)
    timestamp.signed.unrecognized_fields = {} if signed is None else timestamp_notes(signed, 1)
    timestamp.sign(CryptoSigner(fleet.keys.load("timestamp")))
    path.write_bytes(timestamp.to_bytes())


class TestWarnings:
    """Everyone is told at a third of the life left, whichever role it is."""

    @pytest.mark.parametrize(
        ("days", "roles"),
        [
            (4, []),
            (5, ["snapshot", "timestamp"]),
            (61, ["deployments", "m-digits", "snapshot", "targets", "timestamp"]),
        ],
    )
    def test_roles_that_are_due(self, days: int, roles: list[str], running: Device, fleet: Fleet) -> None:
        told = running.sync(now=in_days(days)).warnings
        assert sorted(sentence.split()[2] for sentence in told) == roles

    def test_the_root(self, running: Device, fleet: Fleet) -> None:
        fleet.now += timedelta(days=300)
        with fleet.repository.editing(fleet.keys, fleet.now) as edit:
            for role in edit.contents.roles.keys() - {"root"}:
                edit.renew(role)
        (sentence,) = running.sync(now=fleet.now, force=True).warnings[:1]
        assert sentence.startswith("The store's root metadata expires on ")
        assert "edge-fleet refresh --all" in sentence
