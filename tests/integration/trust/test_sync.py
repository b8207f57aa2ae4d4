"""The way of a version from a package to a device, over a real web server."""

import hashlib
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from edge_agent.documents.deployment import Candidate, Deployment, GroupRule, Rollout, Wave
from edge_agent.documents.errors import (
    ArtifactError,
    DocumentError,
    ModelError,
    OperatorError,
    SettingsError,
    StorageError,
    StoreUnreachableError,
)
from edge_agent.documents.ipc import FromSync, SyncResult
from edge_agent.documents.plan import Plan
from edge_fleet.deploy import assign_groups
from edge_fleet.repository import DEPLOYMENTS
from support.tiny_fleet import Device, Fleet, in_days


def plan_of(result: SyncResult) -> Plan:
    assert result.status == "plan", result.message
    assert result.plan is not None
    return result.plan


def versions(plan: Plan) -> list[tuple[str, str]]:
    return [(version.model, version.version) for version in plan.versions]


class TestChild:
    """The process as the supervisor starts it."""

    def test_a_published_and_deployed_version_arrives(self, fleet: Fleet, device: Device) -> None:
        published = fleet.publish(version="1")
        fleet.deploy("digits=1")

        result = device.sync_child()

        assert (result.status, result.message, result.warnings) == ("plan", "", ())
        (version,) = plan_of(result).versions
        assert (version.model, version.version, version.engine) == ("digits", "1", "onnx")
        assert (plan_of(result).group, plan_of(result).serial, plan_of(result).origin) == (
            "default",
            1,
            "stable",
        )
        assert hashlib.sha256(Path(version.path).read_bytes()).hexdigest() == version.sha256
        assert version.golden_path is not None
        assert Path(version.golden_path).is_file()
        assert result.downloaded_bytes == published.size_bytes
        assert result.expires_s is not None
        assert 6.9 < (result.expires_s - datetime.now(UTC).timestamp()) / 86400 <= 7

    def test_a_failure_is_a_result_too(self, device: Device, fleet: Fleet) -> None:
        result = device.with_store(url="http://127.0.0.1:1").sync_child()
        assert (result.status, result.kind) == ("failed", "network")
        assert "http://127.0.0.1:1/metadata/timestamp.json" in result.message

    @pytest.mark.parametrize("line", [b"", b"nonsense", b'{"type": "syncrequest"}'])
    def test_a_malformed_request_is_answered(self, device: Device, line: bytes) -> None:
        child = device.run_child(line)
        result = msgspec.json.decode(child.stdout, type=FromSync)
        assert isinstance(result, SyncResult)
        assert (child.returncode, result.status, result.kind) == (0, "failed", "operator")
        assert "malformed" in result.message

    def test_without_news_neither_tuf_nor_pydantic_is_imported(self, fleet: Fleet, device: Device) -> None:
        fleet.publish()
        fleet.deploy("digits=1")
        plan = plan_of(device.sync())
        line = msgspec.json.encode(device.request(known_plans=(plan.id,)))
        command = [sys.executable, "-X", "importtime", "-m", "edge_agent.control.sync"]
        child = subprocess.run(command, input=line, capture_output=True, timeout=60, check=True)
        imported = {entry.rpartition(b"|")[2].strip() for entry in child.stderr.splitlines()}
        assert b'"status":"unchanged"' in child.stdout
        assert b"httpx" in imported
        assert imported.isdisjoint({b"tuf", b"pydantic", b"numpy", b"securesystemslib", b"urllib3"})


class TestWhatRuns:
    """From the documents to the plan."""

    def test_no_deployment_for_the_group_is_an_empty_plan(self, device: Device) -> None:
        plan = plan_of(device.sync())
        assert (plan.versions, plan.serial, plan.group) == ((), 0, "default")

    def test_an_update_fetches_only_what_is_new(self, fleet: Fleet, device: Device) -> None:
        fleet.publish(version="1")
        fleet.deploy("digits=1")
        first = plan_of(device.sync())
        published = fleet.publish(version="2")
        fleet.deploy("digits=1:80,2:20")
        second = device.sync()
        assert versions(plan_of(second)) == [("digits", "1"), ("digits", "2")]
        assert [version.weight for version in plan_of(second).versions] == [80, 20]
        assert second.downloaded_bytes == published.size_bytes
        assert plan_of(second).id != first.id

    def test_labels_choose_the_group(self, fleet: Fleet, device: Device) -> None:
        fleet.publish(version="1")
        fleet.publish(version="2")
        fleet.deploy("digits=1")
        fleet.deploy("digits=2", group="south")
        rule = GroupRule(group="south", labels={"site": "ulm"})
        assign_groups(fleet.repository, fleet.keys, (rule,), fleet.now)
        plan = plan_of(device.sync())
        assert (plan.group, versions(plan)) == ("south", [("digits", "2")])

    def test_a_device_in_the_rollout_runs_the_candidate(self, fleet: Fleet, device: Device) -> None:
        fleet.publish(version="1")
        fleet.publish(version="2")
        fleet.publish("other", "1")
        fleet.deploy("digits=1", "other=1")
        fleet.deploy(candidate={"digits": fleet.arms("2")}, percentage=100.0)
        plan = plan_of(device.sync())
        assert (plan.origin, versions(plan)) == ("candidate", [("digits", "2"), ("other", "1")])
        fleet.deploy(percentage=0.0)
        assert versions(plan_of(device.sync())) == [("digits", "1"), ("other", "1")]

    def test_a_wave_whose_time_comes_is_taken_up_though_the_store_stands_still(
        self, fleet: Fleet, device: Device
    ) -> None:
        fleet.publish(version="1")
        fleet.publish(version="2")
        due = fleet.now + timedelta(days=1)
        rollout = Rollout(salt="s", waves=(Wave(percentage=100, not_before=due),))
        stable, candidate = {"digits": fleet.arms("1")}, {"digits": fleet.arms("2")}
        deployment = Deployment(
            group="default",
            serial=1,
            timestamp=fleet.now,
            stable={"models": stable},  # type: ignore[arg-type]
            candidate=Candidate(models=candidate, rollout=rollout),
        )
        with fleet.repository.editing(fleet.keys, fleet.now) as edit:
            content = deployment.model_dump_json(by_alias=True).encode()
            edit.put_target(DEPLOYMENTS, deployment.target_path, content)
        assert versions(plan_of(device.sync())) == [("digits", "1")]
        assert device.sync().status == "unchanged"
        assert versions(plan_of(device.sync(now=due))) == [("digits", "2")]

    def test_a_quarantined_variant_is_not_chosen_again(self, fleet: Fleet, device: Device) -> None:
        fleet.publish(version="1")
        fleet.deploy("digits=1")
        (version,) = plan_of(device.sync()).versions
        with pytest.raises(ModelError, match=r"No variant of digits 1 .* quarantined, crashed"):
            device.sync(quarantined={version.sha256: "crashed"})

    def test_an_unpublished_version_is_refused(self, fleet: Fleet, device: Device) -> None:
        content = json.dumps(
            {
                "group": "default",
                "serial": 1,
                "timestamp": "2026-11-22T00:00:00Z",
                "stable": {"models": {"digits": {"arms": [{"version": "9"}]}}},
            }
        )
        fleet.sign(DEPLOYMENTS, "deployments/default.json", content.encode())
        with pytest.raises(ModelError, match="names digits 9, which is not published"):
            device.sync()

    @pytest.mark.parametrize(
        ("content", "error", "message"),
        [
            (b"{", DocumentError, "deployments/default.json is not JSON"),
            (b"[]", DocumentError, "is not a JSON object"),
            (b'{"schema": 2}', DocumentError, "has schema 2, Edge Agent .* knows schema 1"),
            (
                b'{"schema": 2, "min_agent": "99.1"}',
                OperatorError,
                "needs Edge Agent 99.1, .* update the agent",
            ),
            (b'{"group": "default", "serial": 0}', DocumentError, "is not valid: serial: "),
            (
                b'{"group": "other", "serial": 1, "timestamp": "2026-11-22", "stable": {"models": {}}}',
                DocumentError,
                "is the deployment of group 'other'",
            ),
        ],
    )
    def test_a_bad_document_is_refused_in_one_sentence(
        self, fleet: Fleet, device: Device, content: bytes, error: type[Exception], message: str
    ) -> None:
        fleet.sign(DEPLOYMENTS, "deployments/default.json", content)
        with pytest.raises(error, match=message) as raised:
            device.sync()
        assert "\n" not in str(raised.value)

    def test_a_manifest_under_another_name_is_refused(self, fleet: Fleet, device: Device) -> None:
        fleet.publish(version="1")
        content = fleet.repository.read().read_target("m-digits", "models/digits/1.json")
        assert content is not None
        fleet.sign("m-digits", "models/digits/2.json", content)
        fleet.deploy("digits=2")
        with pytest.raises(DocumentError, match=r"models/digits/2\.json is the manifest of digits 1"):
            device.sync()


class TestUnchanged:
    """The quick look."""

    @pytest.fixture
    def plan(self, fleet: Fleet, device: Device) -> Plan:
        fleet.publish()
        fleet.deploy("digits=1")
        return plan_of(device.sync())

    def test_one_conditional_request_is_enough(self, plan: Plan, device: Device, requests: list[str]) -> None:
        requests.clear()
        result = device.sync(known_plans=(plan.id,))
        assert (result.status, result.warnings, result.plan) == ("unchanged", (), None)
        assert result.expires_s is not None
        assert len(requests) == 1
        assert '"GET /metadata/timestamp.json HTTP/1.1" 304' in requests[0]

    def test_expired_metadata_is_a_warning(self, plan: Plan, device: Device) -> None:
        result = device.sync(now=in_days(8))
        assert result.status == "unchanged"
        assert any("timestamp metadata expired" in warning for warning in result.warnings)

    def test_a_clock_that_was_never_set_is_a_warning(self, plan: Plan, device: Device) -> None:
        (warning,) = device.sync(now=datetime(1970, 1, 1, tzinfo=UTC)).warnings
        assert "clock says 1970-01-01" in warning

    def test_whatever_else_decides_leads_to_a_full_look(self, plan: Plan, device: Device) -> None:
        assert device.sync(force=True).status == "plan"
        assert device.sync(known_plans=("another",)).status == "plan"
        assert device.sync(known_plans=()).status == "plan"
        assert device.sync(quarantined={"f" * 64: "other"}).status == "plan"
        assert device.sync(quarantined={"f" * 64: "other"}).status == "unchanged"

    def test_a_missing_file_is_fetched_again(self, plan: Plan, device: Device) -> None:
        Path(plan.versions[0].path).unlink()
        assert plan_of(device.sync()) == plan
        assert Path(plan.versions[0].path).is_file()

    def test_a_damaged_record_leads_to_a_full_look(self, plan: Plan, device: Device) -> None:
        (device.layout.trust / "last_sync.json").write_bytes(b'{"etag": "\xff"}')
        assert plan_of(device.sync()) == plan


class TestFolder:
    """A store on a medium."""

    def test_a_sync_from_a_folder_needs_no_network(self, fleet: Fleet, device: Device) -> None:
        fleet.publish()
        fleet.deploy("digits=1")
        offline = device.with_store(url=None)
        assert versions(plan_of(offline.sync(folder=str(fleet.store)))) == [("digits", "1")]
        assert offline.sync(folder=str(fleet.store)).status == "unchanged"

    def test_a_file_url_is_a_folder(self, fleet: Fleet, device: Device) -> None:
        fleet.publish()
        fleet.deploy("digits=1")
        assert versions(plan_of(device.with_store(url=fleet.store.as_uri()).sync())) == [("digits", "1")]

    def test_a_medium_that_is_not_there(self, device: Device, tmp_path: Path) -> None:
        with pytest.raises(StoreUnreachableError, match="is not there: is the medium mounted"):
            device.sync(folder=str(tmp_path / "usb"))

    def test_a_folder_that_is_no_store(self, device: Device, tmp_path: Path) -> None:
        with pytest.raises(StoreUnreachableError, match="holds no store: name the folder that has `metadata`"):
            device.sync(folder=str(tmp_path))


class TestBlobs:
    """Files that are not as they should be."""

    @pytest.fixture
    def blob(self, fleet: Fleet) -> Path:
        fleet.publish(size_bytes=1_000_000)
        fleet.deploy("digits=1")
        (blob,) = (path for path in fleet.store.glob("blobs/sha256/*/*") if path.stat().st_size == 1_000_000)
        return blob

    def test_a_file_larger_than_the_device_takes_is_not_fetched(
        self, device: Device, blob: Path, requests: list[str]
    ) -> None:
        with pytest.raises(ModelError, match=r"needs a file of 1000000 bytes .* raise store.max_file_bytes"):
            device.with_store(max_file_bytes=999_999).sync()
        assert not any("/blobs/" in line for line in requests)
        assert device.with_store(max_file_bytes=1_000_000).sync().status == "plan"

    def test_a_tampered_blob_is_refused_and_the_next_look_recovers(
        self, fleet: Fleet, device: Device, blob: Path
    ) -> None:
        good = blob.read_bytes()
        blob.write_bytes(b"!" + good[1:])
        with pytest.raises(ArtifactError, match=f"{blob.name} .* is not the file that was signed"):
            device.sync()
        assert not device.layout.blob(blob.name).exists()
        blob.write_bytes(good)
        assert versions(plan_of(device.sync())) == [("digits", "1")]

    def test_a_longer_blob_is_refused(self, device: Device, blob: Path) -> None:
        with blob.open("ab") as file:
            file.write(b"more")
        with pytest.raises(ArtifactError, match="longer than the 1000000 bytes"):
            device.sync()
        assert not list(device.layout.staging.iterdir())

    def test_a_truncated_blob_is_kept_and_continued_by_range(
        self, device: Device, blob: Path, requests: list[str]
    ) -> None:
        good = blob.read_bytes()
        blob.write_bytes(good[:600_000])
        with pytest.raises(StoreUnreachableError, match="ended after 600000 of 1000000 bytes"):
            device.sync()
        blob.write_bytes(good)
        requests.clear()
        # The golden samples are one of the two files, whichever came first.
        assert device.sync().downloaded_bytes in (400_000, 401_000)
        assert sum(f'{blob.name} HTTP/1.1" 206' in line for line in requests) == 1

    def test_a_missing_blob_is_named(self, device: Device, blob: Path) -> None:
        blob.unlink()
        with pytest.raises(StoreUnreachableError, match=f"The store has no .*{blob.name}"):
            device.sync()

    def test_a_file_that_shrank_below_what_came_is_started_again(self, device: Device, blob: Path) -> None:
        part = device.layout.staging / f"{blob.name}.part"
        device.layout.create()
        part.write_bytes(blob.read_bytes()[:900_000])
        blob.write_bytes(blob.read_bytes()[:500_000])
        with pytest.raises(StoreUnreachableError, match="ended after 500000 of 1000000 bytes"):
            device.sync()

    def test_progress_counts_to_the_end(self, device: Device, blob: Path) -> None:
        device.sync()
        last = device.progress[-1]
        assert last.done_bytes == last.total_bytes == 1_001_000


class TestSettings:
    """What an operator has to correct."""

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"root": None}, "No trusted root is set"),
            ({"root": "/nowhere/root.json"}, r"The trusted root /nowhere/root.json cannot be read"),
            ({"url": None}, "No store is set"),
            ({"url": "ftp://host/"}, "must start with http://"),
            ({"proxy": "nonsense"}, "store.proxy is 'nonsense'"),
            ({"ca_bundle": "/nowhere/ca.pem"}, "store.ca_bundle /nowhere/ca.pem cannot be used"),
            (
                {"client_certificate": "/nowhere/c.pem"},
                "store.client_certificate /nowhere/c.pem cannot be used",
            ),
            ({"bearer_token_file": "/nowhere/token"}, "store.bearer_token_file /nowhere/token cannot be read"),
        ],
    )
    def test_a_setting_that_cannot_work_is_named(
        self, device: Device, fields: dict[str, str | None], message: str
    ) -> None:
        with pytest.raises(SettingsError, match=message):
            device.with_store(**fields).sync()

    def test_a_state_folder_that_cannot_be_written(self, device: Device, tmp_path: Path) -> None:
        (tmp_path / "state").write_text("a file")
        with pytest.raises(StorageError, match=r"set paths.state"):
            device.sync()
