"""A store in other places than a folder: one test of each promise, for every kind of place."""

import hashlib
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edge_agent.documents.errors import OperatorError, StateLockedError, StorageError
from edge_agent.documents.settings import DeviceSettings, PathSettings, Settings, StoreSettings
from edge_fleet.cli import main
from edge_fleet.deploy import Change, deploy, parse_arms
from edge_fleet.garbage import collect_garbage
from edge_fleet.keys import KeyFolder
from edge_fleet.publish import publish, read_package
from edge_fleet.repository import Repository
from edge_fleet.retire import retire
from edge_fleet.stores.base import MissingFileError, StoreFiles
from edge_fleet.stores.lease import Lease
from edge_fleet.stores.objects import ObjectFiles
from edge_fleet.stores.opening import open_files
from edge_fleet.verify import verify
from support.buckets import BUCKET, amazon
from support.cuts import PowerCutError
from support.tiny_fleet import Device, build_package

PLACES = ("folder", "file", "memory", "s3")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with amazon() as endpoint:
        yield endpoint


@pytest.fixture
def s3(endpoint: str) -> str:
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    match request.param:
        case "folder":
            return str(tmp_path / "store")
        case "file":
            return (tmp_path / "a store").as_uri()
        case "memory":
            return f"memory://{uuid.uuid4().hex}/store"
        case _:
            return str(request.getfixturevalue("s3"))


@pytest.fixture
def keys(tmp_path: Path) -> KeyFolder:
    return KeyFolder(tmp_path / "keys")


@pytest.fixture
def files(place: str) -> StoreFiles:
    return open_files(place)


def release(repository: Repository, keys: KeyFolder, tmp_path: Path, version: str) -> None:
    package = read_package(build_package(tmp_path, version=version, size_bytes=20_000))
    publish(repository, [package], keys, datetime.now(UTC))
    change = Change(models=dict([parse_arms(f"digits={version}")]))
    deploy(repository, keys, "default", change, datetime.now(UTC))


class TestFiles:
    def test_what_is_written_is_read(self, files: StoreFiles, tmp_path: Path) -> None:
        (tmp_path / "blob").write_bytes(b"abc")
        told: list[int] = []
        files.write("metadata/1.root.json", b"{}")
        files.write("metadata/1.root.json", b"{ }")
        files.upload("blobs/sha256/aa/aabb", tmp_path / "blob", told.append)
        assert sum(told) == 3
        assert files.read("metadata/1.root.json") == b"{ }"
        with files.open("blobs/sha256/aa/aabb") as file:
            assert (file.read(2), file.read()) == (b"ab", b"c")
        assert files.exists("metadata/1.root.json")
        assert not files.exists("metadata")
        assert files.holds("blobs/sha256/aa/aabb", hashlib.sha256(b"abc").hexdigest(), 3)
        assert not files.holds("blobs/sha256/aa/aabb", hashlib.sha256(b"abcd").hexdigest(), 4)
        assert not files.holds("blobs/sha256/aa/none", "", 3)

    def test_a_listing(self, files: StoreFiles) -> None:
        assert list(files.list("metadata/")) == []
        for name in ("metadata/b", "metadata/a", "blobs/c/d"):
            files.write(name, b"xy")
        listed = list(files.list("metadata/"))
        assert [(file.name, file.size_bytes) for file in listed] == [("metadata/a", 2), ("metadata/b", 2)]
        assert all(abs(file.modified - datetime.now(UTC)) < timedelta(minutes=1) for file in listed)
        assert [file.name for file in files.list("blobs/")] == ["blobs/c/d"]
        for _ in range(2):
            files.delete("metadata/a")
        assert [file.name for file in files.list("metadata/")] == ["metadata/b"]

    def test_what_is_not_there(self, files: StoreFiles) -> None:
        with pytest.raises(MissingFileError, match=r"The store lacks .*: restore it from a backup"):
            files.read("metadata/none.json")
        with pytest.raises(MissingFileError), files.open("metadata/none.json"):
            pass

    def test_one_writer_at_a_time(self, place: str) -> None:
        inside: list[int] = []

        def write() -> None:
            files = open_files(place)
            with files.locked():
                inside.append(1)
                assert len(inside) == 1
                files.write("x", b"")
                files.check_lock()
                inside.pop()

        failed: list[BaseException] = []

        def attempt() -> None:
            try:
                write()
            except BaseException as error:
                failed.append(error)

        writers = [threading.Thread(target=attempt, name=f"writer {number}") for number in range(3)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join(60)
        assert failed == []
        assert [file.name for file in open_files(place).list(".lock/")] == []


class TestLease:
    @pytest.fixture
    def bucket(self) -> ObjectFiles:
        return ObjectFiles(f"memory://{uuid.uuid4().hex}")

    def test_who_holds_the_store_is_told(self, bucket: ObjectFiles) -> None:
        with Lease(bucket).held():
            impatient = Lease(bucket, patience_s=0)
            with (
                pytest.raises(StateLockedError, match=r"is being changed by .*its lock ends at"),
                impatient.held(),
            ):
                pass
        with impatient.held():
            pass

    def test_the_lease_of_the_dead_is_removed(self, bucket: ObjectFiles) -> None:
        old = datetime.now(UTC) - timedelta(minutes=2)
        bucket.write(f".lock/{old:%Y%m%dT%H%M%SZ}-host-1-abc", b"")
        bucket.write(".lock/nonsense", b"")
        with Lease(bucket, patience_s=0).held():
            assert len(list(bucket.list(".lock/"))) == 1

    def test_a_lease_that_ran_out_stops_the_writer(
        self, bucket: ObjectFiles, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("edge_fleet.stores.lease._LIFE", timedelta(seconds=30))
        with (
            bucket.locked(),
            pytest.raises(StorageError, match=r"The lock on memory://.* ran out: nothing was published"),
        ):
            bucket.check_lock()

    def test_a_lease_is_renewed_while_it_is_held(
        self, bucket: ObjectFiles, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("edge_fleet.stores.lease._RENEWAL_S", 0.05)
        lease = Lease(bucket)
        with lease.held():
            (first,) = bucket.list(".lock/")
            deadline = datetime.now(UTC) + timedelta(seconds=20)
            while [file.name for file in bucket.list(".lock/")] in ([first.name], []):
                assert datetime.now(UTC) < deadline
        assert list(bucket.list(".lock/")) == []


class TestStore:
    def test_from_nothing_to_a_new_deployment(self, place: str, keys: KeyFolder, tmp_path: Path) -> None:
        repository = Repository(place)
        assert not repository.exists()
        repository.create(keys, datetime.now(UTC))
        with pytest.raises(OperatorError, match="is a store already"):
            Repository(place).create(keys, datetime.now(UTC))
        release(repository, keys, tmp_path, "1")
        release(Repository(place), keys, tmp_path, "2")
        contents = Repository(place).read()
        assert sorted(contents.targets("m-digits")) == ["models/digits/1.json", "models/digits/2.json"]
        assert contents.read_target("m-digits", "models/digits/2.json")

    def test_it_is_verified_and_cleaned(self, place: str, keys: KeyFolder, tmp_path: Path) -> None:
        repository = Repository(place)
        repository.create(keys, datetime.now(UTC))
        for version in ("1", "2", "3"):
            release(repository, keys, tmp_path, version)
        (retired,) = retire(repository, keys, (), 1, datetime.now(UTC)).models
        assert retired.retired == ("1", "2")
        later = datetime.now(UTC) + timedelta(minutes=5)
        collected = collect_garbage(repository, later, timedelta(minutes=1))
        assert (collected.manifests, collected.blobs) == (2, 4)
        verified = verify(Repository(place), datetime.now(UTC))
        assert (verified.findings, verified.blobs) == ((), 2)

    def test_the_same_package_again_uploads_nothing(self, place: str, keys: KeyFolder, tmp_path: Path) -> None:
        repository = Repository(place)
        repository.create(keys, datetime.now(UTC))
        package = read_package(build_package(tmp_path))
        (first,) = publish(repository, [package], keys, datetime.now(UTC))
        (again,) = publish(repository, [package], keys, datetime.now(UTC))
        assert (first.uploaded_bytes, again.uploaded_bytes, again.state) == (301_000, 0, "unchanged")


def cut_bucket_after(monkeypatch: pytest.MonkeyPatch, writes: int) -> None:
    """Let a number of writes through to any place like S3, then end the writer."""
    left = [writes]
    for name in ("write", "upload"):
        whole = getattr(ObjectFiles, name)

        def limited(self: ObjectFiles, path: str, *rest: object, whole: object = whole) -> None:
            if not path.startswith(".lock/"):
                if left[0] == 0:
                    raise PowerCutError
                left[0] -= 1
            whole(self, path, *rest)  # type: ignore[operator]

        monkeypatch.setattr(ObjectFiles, name, limited)


@pytest.mark.slow
def test_devices_sync_from_a_bucket_whose_publishers_are_cut_off(
    s3: str, endpoint: str, keys: KeyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = Repository(s3)
    repository.create(keys, datetime.now(UTC))
    release(repository, keys, tmp_path, "1")
    root = tmp_path / "root.json"
    root.write_bytes(repository.files.read("root.json"))
    device = Device(
        Settings(
            device=DeviceSettings(id="bench-1"),
            paths=PathSettings(state=str(tmp_path / "state"), runtime=str(tmp_path / "run")),
            store=StoreSettings(url=s3.replace("s3://", f"{endpoint}/"), root=str(root), timeout_s=5.0),
        )
    )
    plan = device.sync().plan
    assert plan is not None
    package = read_package(build_package(tmp_path, version="2", size_bytes=20_000))
    for writes in range(20):
        with monkeypatch.context() as patch:
            cut_bucket_after(patch, writes)
            try:
                publish(Repository(s3), [package], keys, datetime.now(UTC))
                break
            except PowerCutError:
                pass
        assert device.sync(force=True).plan == plan
        assert list(Repository(s3).read().targets("m-digits")) == ["models/digits/1.json"]
    assert writes == 6 - 2  # what earlier attempts uploaded, the two blobs, is not written again
    release(Repository(s3), keys, tmp_path, "3")
    after = device.sync().plan
    assert after is not None
    assert [version.version for version in after.versions] == ["3"]


@pytest.mark.parametrize(
    ("store", "says"),
    [
        (
            "s3://no-such-bucket/store",
            "s3://no-such-bucket/store is not a store: create it with edge-fleet init",
        ),
        ("no-such-thing://x", "The store no-such-thing://x cannot be opened"),
    ],
)
@pytest.mark.usefixtures("endpoint")
def test_a_place_that_is_not_there(store: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", store]) == 2
    assert says in capsys.readouterr().err


def test_a_place_that_does_not_answer(
    endpoint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    assert main(["list", f"s3://{BUCKET}/x"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "check address, credentials and network" in said


def test_a_bucket_cannot_be_served(s3: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", s3, "--keys", str(tmp_path / "keys"), "--unencrypted"]) == 0
    assert main(["serve", s3]) == 2
    assert "is not a folder" in capsys.readouterr().err
