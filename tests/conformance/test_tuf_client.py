"""The agent's trust module against TUF's client workflow, through the client that the TUF project's suite runs.

The cases are those of the specification (section 5) and of that suite, which is no package of a registry.
"""

import json
import subprocess
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Delegations, Metadata, MetaFile, SuccinctRoles, Targets

from edge_agent.control.fetch import HttpStore
from edge_agent.control.trust import Trust
from edge_agent.documents.errors import TrustError
from edge_agent.documents.settings import StoreSettings
from edge_agent.policy.trusted_time import Times
from support.tuf_repository import CLIENT, TOP_LEVEL, Client, TufRepository, serving

pytestmark = pytest.mark.slow

FIRST = ["2.root", "timestamp", "1.snapshot", "1.targets"]


@pytest.fixture
def repository() -> TufRepository:
    return TufRepository()


@pytest.fixture
def url(repository: TufRepository) -> Iterator[str]:
    with serving(repository) as url:
        yield url


@pytest.fixture
def client(tmp_path: Path, url: str, repository: TufRepository) -> Client:
    """A client that trusts the repository's first root."""
    client = Client(tmp_path, url, repository.published["root"][0])
    assert client.init() == 0
    return client


def past() -> datetime:
    return datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)


class TestWorkflow:
    def test_init_needs_no_network(self, client: Client, repository: TufRepository) -> None:
        assert repository.asked() == []
        assert client.trusted() == {"root": 1}

    def test_a_refresh_asks_for_each_role_once_and_keeps_its_bytes(
        self, client: Client, repository: TufRepository
    ) -> None:
        repository.put("timestamp", 1, repository.published["timestamp"][-1] + b" ")
        assert client.refresh() == 0
        assert repository.asked() == FIRST
        for role in TOP_LEVEL:
            assert (client.metadata / f"{role}.json").read_bytes() == repository.published[role][-1]

    def test_without_news_only_root_and_timestamp_are_asked_for(
        self, client: Client, repository: TufRepository
    ) -> None:
        assert client.refresh() == 0
        repository.asked()
        assert client.refresh() == 0
        assert repository.asked() == ["2.root", "timestamp"]

    def test_a_download_refreshes_first(self, client: Client, repository: TufRepository) -> None:
        assert client.download("none") == 1
        assert repository.asked() == FIRST
        assert client.trusted() == dict.fromkeys(TOP_LEVEL, 1)

    def test_the_client_is_an_executable_of_its_own(self) -> None:
        assert CLIENT.read_text().startswith("#!/usr/bin/env python3\n")
        assert b"--metadata-dir" in subprocess.check_output([CLIENT, "--help"])

    def test_fields_that_are_not_known_are_part_of_what_is_signed(
        self, client: Client, repository: TufRepository
    ) -> None:
        repository.root.unrecognized_fields["custom"] = {"a": 1}
        repository.root.roles["targets"].unrecognized_fields["more"] = "value"
        repository.publish("root")
        assert client.refresh() == 0
        assert client.trusted()["root"] == 2

    def test_a_store_without_consistent_snapshots(self, client: Client, repository: TufRepository) -> None:
        repository.root.consistent_snapshot = False
        repository.add_target("targets", "a/b", b"content")
        repository.publish("targets", "snapshot", "timestamp", "root")
        assert client.download("a/b") == 0
        assert repository.asked() == ["2.root", "3.root", "timestamp", "snapshot", "targets", "targets/a/b"]


class TestInitialRoot:
    @pytest.mark.parametrize("damage", ["no version", "wrong signature", "no JSON"])
    def test_one_that_is_not_valid_leads_nowhere(
        self, damage: str, tmp_path: Path, url: str, repository: TufRepository
    ) -> None:
        root = json.loads(repository.published["root"][0])
        if damage == "no version":
            del root["signed"]["version"]
        else:
            root["signatures"][0]["sig"] = "00" * 64
        content = b"{" if damage == "no JSON" else json.dumps(root).encode()
        client = Client(tmp_path, url, content)
        client.init()
        assert client.refresh() == 1
        assert repository.asked() == []


class TestWhatIsRefused:
    """The roles before the bad one are kept, as the workflow has it."""

    @pytest.mark.parametrize(
        ("role", "trusted"),
        [
            ("root", {"root": 1}),
            ("timestamp", {"root": 2}),
            ("snapshot", {"root": 2, "timestamp": 2}),
            ("targets", {"root": 2, "timestamp": 2, "snapshot": 2}),
        ],
    )
    def test_unsigned(
        self, role: str, trusted: dict[str, int], client: Client, repository: TufRepository
    ) -> None:
        repository.signers[role].clear()
        repository.publish("root", "targets", "snapshot", "timestamp")
        assert client.refresh() == 1
        assert client.trusted() == trusted

    @pytest.mark.parametrize(
        ("role", "trusted"),
        [
            ("root", {"root": 1}),
            ("snapshot", {"root": 2, "timestamp": 2}),
            ("targets", {"root": 2, "timestamp": 2, "snapshot": 2}),
        ],
    )
    def test_a_version_that_its_name_contradicts(
        self, role: str, trusted: dict[str, int], client: Client, repository: TufRepository
    ) -> None:
        for each in ("root", "targets", "snapshot", "timestamp"):
            repository.signed[each].version = 3 if each == role else 2
            repository.put(each, 2, repository.encode(each))
        assert client.refresh() == 1
        assert client.trusted() == trusted

    def test_another_type(self, client: Client, repository: TufRepository) -> None:
        (signer,) = repository.signers["timestamp"]
        repository.root.add_key(signer.public_key, "snapshot")
        repository.signers["snapshot"] = [signer]
        repository.snapshot.meta = {"snapshot.json": MetaFile(1)}
        repository.publish("root")
        repository.put("timestamp", 2, repository.encode("snapshot"))
        assert client.refresh() == 1
        assert client.trusted() == {"root": 2}

    def test_other_content_of_the_same_version_is_passed_over(
        self, client: Client, repository: TufRepository
    ) -> None:
        assert client.refresh() == 0
        first = repository.published["timestamp"][-1]
        repository.timestamp.snapshot_meta.version = 100
        repository.publish("timestamp", version=1)
        repository.asked()
        assert client.refresh() == 0
        assert repository.asked() == ["2.root", "timestamp"]
        assert (client.metadata / "timestamp.json").read_bytes() == first

    @pytest.mark.parametrize("role", ["snapshot", "targets"])
    def test_a_hash_that_is_not_the_signed_one(
        self, role: str, client: Client, repository: TufRepository
    ) -> None:
        repository.with_hashes = True
        repository.publish("targets", "snapshot", "timestamp")
        assert client.refresh() == 0
        if role == "targets":
            repository.publish("targets")
            repository.snapshot.meta["targets.json"].hashes["sha256"] = "0" * 64
        repository.publish("snapshot")
        if role == "snapshot":
            repository.timestamp.snapshot_meta.hashes["sha256"] = "0" * 64
        repository.publish("timestamp")
        assert client.refresh() == 1
        assert client.trusted()[role] == 2
        assert client.trusted()["timestamp"] == 3

    @pytest.mark.parametrize("role", ["timestamp", "2.snapshot", "2.targets"])
    def test_a_role_that_is_missing(self, role: str, client: Client, repository: TufRepository) -> None:
        assert client.refresh() == 0
        repository.publish("targets", "snapshot", "timestamp")
        del repository.files[f"metadata/{role}.json"]
        assert client.refresh() == 1
        assert client.trusted()["targets"] == 1

    def test_metadata_without_end(self, client: Client, repository: TufRepository) -> None:
        repository.put("timestamp", 1, repository.published["timestamp"][0] + b" " * 20_000)
        repository.put("root", 2, b" " * 600_000)
        assert client.refresh() == 1
        del repository.files["metadata/2.root.json"]
        assert client.refresh() == 1
        assert client.trusted() == {"root": 1}


class TestRollback:
    def test_of_the_timestamp(self, client: Client, repository: TufRepository) -> None:
        repository.publish("timestamp")
        assert client.refresh() == 0
        repository.publish("timestamp", version=1)
        assert client.refresh() == 1
        assert client.trusted()["timestamp"] == 2

    @pytest.mark.parametrize("with_hashes", [False, True])
    def test_of_the_snapshot(self, with_hashes: bool, client: Client, repository: TufRepository) -> None:
        repository.with_hashes = with_hashes
        repository.publish("snapshot", "timestamp")
        assert client.refresh() == 0
        repository.publish("snapshot", version=1)
        repository.publish("timestamp")
        assert client.refresh() == 1
        assert client.trusted() == {"root": 1, "timestamp": 2, "snapshot": 2, "targets": 1}

    @pytest.mark.parametrize("with_hashes", [False, True])
    def test_of_targets(self, with_hashes: bool, client: Client, repository: TufRepository) -> None:
        repository.with_hashes = with_hashes
        repository.publish("targets", "snapshot", "timestamp")
        assert client.refresh() == 0
        repository.publish("targets", version=1)
        repository.publish("snapshot", "timestamp")
        assert client.refresh() == 1
        assert client.trusted() == {"root": 1, "timestamp": 3, "snapshot": 2, "targets": 2}

    def test_of_a_role_that_the_snapshot_no_longer_names(
        self, client: Client, repository: TufRepository
    ) -> None:
        repository.delegate("targets", "A")
        repository.publish("A", "targets", "snapshot", "timestamp")
        assert client.refresh() == 0
        del repository.snapshot.meta["A.json"]
        repository.publish("snapshot", "timestamp")
        assert client.refresh() == 1
        assert client.trusted()["snapshot"] == 2

    @pytest.mark.parametrize("loss", ["deleted", "zeroed"])
    def test_though_what_was_trusted_is_lost(
        self, loss: str, client: Client, repository: TufRepository
    ) -> None:
        repository.publish("targets", "snapshot", "timestamp")
        assert client.refresh() == 0
        for folder in (client.metadata, client.metadata / ".trust/current"):
            for role in ("timestamp", "snapshot", "targets"):
                path = folder / f"{role}.json"
                if loss == "deleted":
                    path.unlink()
                else:
                    path.write_bytes(b"\0" * path.stat().st_size)
        repository.publish("targets", "snapshot", "timestamp", version=1)
        assert client.refresh() == 1
        assert "went back" in client.said


class TestFastForwardRecovery:
    """New keys let versions that a thief of the old ones signed start again."""

    @pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
    def test_by_replacing_keys(self, role: str, client: Client, repository: TufRepository) -> None:
        repository.publish(role, version=99_999)
        repository.publish(*{"timestamp": (), "snapshot": ("timestamp",)}.get(role, ("snapshot", "timestamp")))
        assert client.refresh() == 0
        assert client.trusted()[role] == 99_999
        replaced = {
            "timestamp": ("timestamp",),
            "snapshot": ("timestamp", "snapshot"),
            "targets": ("snapshot",),
        }
        for each in replaced[role]:
            repository.replace_keys(each)
        repository.publish("root")
        repository.publish(role, version=1)
        repository.publish(*{"timestamp": (), "snapshot": ("timestamp",)}.get(role, ("snapshot", "timestamp")))
        assert client.refresh() == 0
        assert client.trusted()[role] == 1


class TestExpiry:
    def test_of_the_root_stops_what_follows_but_the_root_is_kept(
        self, client: Client, repository: TufRepository
    ) -> None:
        assert client.refresh() == 0
        repository.root.expires = past()
        repository.publish("root", "targets", "snapshot", "timestamp")
        assert client.refresh() == 1
        assert client.trusted() == {"root": 2, "timestamp": 1, "snapshot": 1, "targets": 1}
        assert "a newer root is withheld: the store gives out no metadata/3.root.json" in client.said

    @pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
    def test_of_another_role(self, role: str, client: Client, repository: TufRepository) -> None:
        assert client.refresh() == 0
        repository.signed[role].expires = past()
        repository.publish("targets", "snapshot", "timestamp")
        assert client.refresh() == 1
        assert f"{role} metadata expired on" in client.said
        assert client.trusted()[role] == 1

    def test_an_expired_root_between_is_no_obstacle(self, client: Client, repository: TufRepository) -> None:
        repository.root.expires = past()
        repository.publish("root")
        repository.root.expires = repository.expiry
        repository.publish("root")
        assert client.refresh() == 0
        assert client.trusted()["root"] == 3

    def test_of_a_delegated_role(self, client: Client, repository: TufRepository) -> None:
        repository.delegate("targets", "A")
        repository.signed["A"].expires = past()
        repository.add_target("A", "file", b"content")
        repository.publish("A", "targets", "snapshot", "timestamp")
        assert client.refresh() == 0
        assert client.download("file") == 1
        assert (client.downloaded(), "A" in client.trusted()) == ([], False)

    def test_expired_metadata_that_is_kept_still_guards_what_follows(
        self, tmp_path: Path, url: str, repository: TufRepository
    ) -> None:
        now = datetime.now(UTC).replace(microsecond=0)
        folder = tmp_path / "trust"
        folder.mkdir()

        def refresh(after: timedelta) -> None:
            root = repository.published["root"][0]
            http, times = HttpStore(StoreSettings(url=url)), Times(now + after)
            with closing(http) as store, Trust(folder, store, root, times) as trust:
                trust.refresh()

        repository.timestamp.expires = now + timedelta(days=7)
        repository.publish("timestamp")
        refresh(timedelta())
        repository.timestamp.expires = now + timedelta(days=21)
        repository.publish("targets", "snapshot", "timestamp")
        refresh(timedelta(days=18))
        assert json.loads((folder / "current/timestamp.json").read_bytes())["signed"]["version"] == 3
        repository.publish("timestamp", version=2)
        with pytest.raises(TrustError, match="goes back"):
            refresh(timedelta(days=18))


class Signing(NamedTuple):
    """Keys of a role by number, how many must sign, and which did."""

    keys: str
    threshold: int
    by: str


class TestKeys:
    @pytest.mark.parametrize(
        ("roots", "accepted"),
        [
            ([Signing("1", 1, "1"), Signing("2", 1, "21"), Signing("2", 1, "2")], 3),
            ([Signing("1", 1, "314"), Signing("2", 1, "3214"), Signing("2", 1, "324")], 3),
            ([Signing("01234", 3, "024"), Signing("01234", 3, "041"), Signing("01234", 3, "013")], 3),
            ([Signing("01234", 3, "024"), Signing("01345", 3, "041")], 2),
            ([Signing("01234", 3, "024"), Signing("56789", 3, "024567"), Signing("56789", 3, "567")], 3),
            ([Signing("123", 1, "1"), Signing("123", 2, "12")], 2),
            ([Signing("123", 2, "12"), Signing("123", 1, "12"), Signing("123", 1, "1")], 3),
            ([Signing("1", 1, "1"), Signing("12", 2, "12")], 2),
            ([Signing("1", 1, "1"), Signing("2", 1, "234")], 1),
            ([Signing("1", 1, "1"), Signing("2", 1, "134")], 1),
            ([Signing("01234", 3, "024"), Signing("01345", 3, "024")], 1),
            ([Signing("01234", 3, "024"), Signing("01345", 3, "045")], 1),
            ([Signing("123", 1, "1"), Signing("123", 2, "2")], 1),
            ([Signing("123", 2, "12"), Signing("123", 1, "2")], 1),
        ],
    )
    def test_the_chain_of_roots(
        self, roots: list[Signing], accepted: int, tmp_path: Path, url: str, repository: TufRepository
    ) -> None:
        keys = [CryptoSigner.generate_ed25519() for _ in range(10)]
        repository.published["root"].clear()
        for version, root in enumerate(roots, 1):
            wanted, by = ([keys[int(number)] for number in numbers] for numbers in (root.keys, root.by))
            repository.set_keys("root", wanted, root.threshold, by)
            repository.publish("root", version=version)
        client = Client(tmp_path, url, repository.published["root"][0])
        assert client.init() == 0
        assert client.refresh() == (0 if accepted == len(roots) else 1)
        assert (client.metadata / "root.json").read_bytes() == repository.published["root"][accepted - 1]

    @pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
    @pytest.mark.parametrize(
        ("signing", "is_accepted"),
        [
            (Signing("2", 1, "2"), True),
            (Signing("1", 1, "314"), True),
            (Signing("01234", 3, "413"), True),
            (Signing("2", 1, "134"), False),
            (Signing("01345", 3, "024"), False),
            (Signing("01345", 3, "04"), False),
        ],
    )
    def test_other_roles(
        self, role: str, signing: Signing, is_accepted: bool, client: Client, repository: TufRepository
    ) -> None:
        keys = [CryptoSigner.generate_ed25519() for _ in range(6)]
        wanted, by = ([keys[int(number)] for number in numbers] for numbers in (signing.keys, signing.by))
        repository.set_keys(role, wanted, signing.threshold, by)
        repository.publish("root", "targets", "snapshot", "timestamp")
        assert client.refresh() == (0 if is_accepted else 1)
        assert client.trusted().get(role) == (2 if is_accepted else None)

    @pytest.mark.parametrize("repeated", ["key", "signature"])
    def test_a_key_counts_once(self, repeated: str, client: Client, repository: TufRepository) -> None:
        (signer,) = repository.signers["snapshot"]
        repository.root.roles["snapshot"].threshold = 2
        root = json.loads(repository.encode("root"))
        if repeated == "key":
            root["signed"]["roles"]["snapshot"]["keyids"] *= 2
        metadata = Metadata.from_bytes(repository.encode("snapshot")).to_dict()
        metadata["signatures"] *= 2
        repository.root.version = 2
        if repeated == "signature":
            repository.put("root", 2, repository.encode("root"))
        else:
            repository.put("root", 2, json.dumps(root).encode())
        repository.put("snapshot", 1, json.dumps(metadata).encode())
        assert signer.public_key.keyid in repository.root.keys
        assert client.refresh() == 1
        assert "snapshot" not in client.trusted()

    @pytest.mark.parametrize(
        "signer",
        [
            CryptoSigner.generate_rsa(),
            CryptoSigner.generate_rsa(scheme="rsa-pkcs1v15-sha256"),
            CryptoSigner.generate_ecdsa(),
            CryptoSigner.generate_ed25519(),
        ],
        ids=["rsa pss", "rsa pkcs1v15", "ecdsa p-256", "ed25519"],
    )
    def test_kinds_of_keys(self, signer: CryptoSigner, client: Client, repository: TufRepository) -> None:
        repository.signers["root"].append(signer)
        repository.root.add_key(signer.public_key, "root")
        repository.root.roles["root"].threshold = 2
        repository.publish("root")
        assert client.refresh() == 0
        assert client.trusted()["root"] == 2
        repository.root.version = 3
        root = Metadata.from_bytes(repository.encode("root"))
        older = Metadata.from_bytes(repository.published["root"][-1]).signatures
        root.signatures[signer.public_key.keyid] = older[signer.public_key.keyid]
        repository.put("root", 3, root.to_bytes())
        assert client.refresh() == 1
        assert client.trusted()["root"] == 2

    @pytest.mark.parametrize("signature", ["", "00" * 64, "no hexadecimal digits"])
    def test_a_wrong_signature_beside_enough_right_ones_does_no_harm(
        self, signature: str, client: Client, repository: TufRepository
    ) -> None:
        other = CryptoSigner.generate_ed25519()
        repository.root.add_key(other.public_key, "timestamp")
        repository.signers["timestamp"].append(other)
        repository.publish("root")
        timestamp = Metadata.from_bytes(repository.encode("timestamp"))
        timestamp.signatures[other.public_key.keyid].signature = signature
        repository.put("timestamp", 1, timestamp.to_bytes())
        assert client.refresh() == 0

    @pytest.mark.parametrize("status", [403, 404])
    def test_a_withheld_root_is_told_when_what_follows_has_new_keys(
        self, status: int, client: Client, repository: TufRepository
    ) -> None:
        repository.replace_keys("timestamp")
        repository.publish("root", "timestamp")
        repository.statuses["metadata/2.root.json"] = status
        assert client.refresh() == 1
        assert "a newer root is withheld: the store gives out no metadata/2.root.json" in client.said

    def test_a_chain_without_end_ends(self, client: Client, repository: TufRepository) -> None:
        repository.publish(*["root"] * 300)
        assert client.refresh() == 0
        assert client.trusted()["root"] == 257

    def test_a_root_that_fails_is_no_end_of_the_chain(self, client: Client, repository: TufRepository) -> None:
        repository.statuses["metadata/2.root.json"] = 500
        assert client.refresh() == 1
        assert repository.asked() == ["2.root"]


class Graph(NamedTuple):
    """Delegations as `delegator>role`, with `!` if terminating, and `:pattern`; roles in visited order."""

    delegations: str
    visited: str


class TestDelegations:
    @pytest.mark.parametrize(
        "graph",
        [
            Graph("targets>A", "A"),
            Graph("targets>A targets>B", "AB"),
            Graph("targets>A targets>B B>C", "ABC"),
            Graph("targets>A targets>B A>C A>D", "ACDB"),
            Graph("targets>A targets>B A>C C>D", "ACDB"),
            Graph("targets>A targets>B A>C! A>D", "AC"),
            Graph("targets>A targets>B A>C! C>D", "ACD"),
            Graph("targets>A:*.py targets>B A>C", "B"),
            Graph("targets>A targets>B A>C:*.py C>D", "AB"),
            Graph("targets>A targets>B B>C C>D D>B", "ABCD"),
            Graph("targets>A targets>B B>C A>C", "ACB"),
            Graph("targets>A targets>B B>C A>C:*.py", "ABC"),
        ],
        ids=lambda graph: graph.delegations,
    )
    def test_roles_are_visited_in_order(self, graph: Graph, client: Client, repository: TufRepository) -> None:
        for delegation in graph.delegations.split():
            edge, _, pattern = delegation.partition(":")
            delegator, _, role = edge.partition(">")
            repository.delegate(delegator, role.rstrip("!"), [pattern or "*"], role.endswith("!"))
        roles = [role for role in repository.signed if role not in TOP_LEVEL]
        repository.publish(*roles, "targets", "snapshot", "timestamp")
        assert client.download("missing") == 1
        assert repository.asked()[4:] == [f"1.{role}" for role in graph.visited]

    @pytest.mark.parametrize(
        ("path", "visited", "is_found"),
        [
            ("file", "", True),
            ("README.md", "A", True),
            ("releases/x/v1", "BC", True),
            ("releases/y/v1.zip", "BD", True),
            ("releases/z/v1.zip", "B", False),
        ],
    )
    def test_targets_are_found_where_every_delegator_allows(
        self, path: str, visited: str, is_found: bool, client: Client, repository: TufRepository
    ) -> None:
        repository.delegate("targets", "A", ["*.doc", "*.md"])
        repository.delegate("targets", "B", ["releases/*/*"])
        repository.delegate("B", "C", ["releases/x/*"])
        repository.delegate("B", "D", ["releases/y/*.zip"])
        signed_by = {"file": "targets", "README.md": "A", "releases/x/v1": "C"}
        repository.add_target(signed_by.get(path, "D"), path, path.encode())
        repository.publish(*"ABCD", "targets", "snapshot", "timestamp")
        assert client.download(path) == (0 if is_found else 1)
        assert client.downloaded() == ([path.encode()] if is_found else [])
        asked = [name for name in repository.asked()[4:] if not name.startswith("targets/")]
        assert asked == [f"1.{role}" for role in visited]

    def test_a_role_is_verified_for_each_of_its_delegators(
        self, client: Client, repository: TufRepository
    ) -> None:
        repository.delegate("targets", "A", ["a/*"])
        repository.delegate("targets", "B", ["b/*"])
        repository.delegate("A", "C", ["a/*"])
        repository.delegate("B", "C", ["b/*"])
        other = CryptoSigner.generate_ed25519().public_key
        repository.signed["B"].delegations.roles["C"].keyids = []
        repository.signed["B"].add_key(other, "C")
        for path in ("a/1", "a/2", "b/1"):
            repository.add_target("C", path, path.encode())
        repository.publish(*"ABC", "targets", "snapshot", "timestamp")
        assert client.download("a/1", "b/1", "a/2") == 1
        assert client.downloaded() == [b"a/1"]
        assert client.download("b/1") == 1
        assert client.download("a/2") == 0

    def test_hash_bins(self, client: Client, repository: TufRepository) -> None:
        signer = CryptoSigner.generate_ed25519()
        bins = SuccinctRoles([], 1, 2, "bin")
        repository.targets.delegations = Delegations({}, None, bins)
        repository.targets.add_key(signer.public_key)
        for name in bins.get_roles():
            repository.signed[name] = Targets(expires=repository.expiry)
            repository.signers[name], repository.published[name] = [signer], []
        repository.add_target(bins.get_role_for_target("file"), "file", b"content")
        repository.publish(*bins.get_roles(), "targets", "snapshot", "timestamp")
        assert client.download("file") == 0
        assert client.downloaded() == [b"content"]

    def test_a_search_ends(self, client: Client, repository: TufRepository) -> None:
        roles = [f"r{number}" for number in range(60)]
        for delegator, role in zip(["targets", *roles], roles, strict=False):
            repository.delegate(delegator, role)
        repository.add_target(roles[-1], "file", b"content")
        repository.publish(*roles, "targets", "snapshot", "timestamp")
        assert client.download("file") == 1
        assert len(repository.asked()) < 40

    @pytest.mark.parametrize("role", ["?", "#", "/role", "../role", ".", "..", "a b", "ü%2F"])
    def test_names_that_are_no_file_names(self, role: str, client: Client, repository: TufRepository) -> None:
        repository.delegate("targets", role)
        repository.publish(role, "targets", "snapshot", "timestamp")
        before = sorted(client.metadata.parent.iterdir())
        assert client.download("missing") == 1
        assert repository.asked()[-1] == f"1.{quote(role, '')}"
        assert client.trusted() == {**dict.fromkeys(TOP_LEVEL, 2), "root": 1, quote(role, ""): 1}
        assert sorted(client.metadata.parent.iterdir()) == before


class TestDownload:
    @pytest.mark.parametrize("path", ["file.txt", "path/to/a/file.txt", "with space", "a%20b", "?", "ü/#"])
    def test_a_target_arrives(self, path: str, client: Client, repository: TufRepository) -> None:
        served = repository.add_target("targets", path, b"content")
        repository.files[quote(served)] = b"content"
        repository.publish("targets", "snapshot", "timestamp")
        assert client.refresh() == 0
        assert client.downloaded() == []
        assert client.download(path) == 0
        assert client.downloaded() == [b"content"]

    def test_what_is_here_is_not_fetched_again(self, client: Client, repository: TufRepository) -> None:
        file = repository.add_target("targets", "file", b"first")
        repository.publish("targets", "snapshot", "timestamp")
        for _ in range(2):
            assert client.download("file") == 0
        assert repository.requests.count(file) == 1
        repository.add_target("targets", "file", b"second")
        repository.publish("targets", "snapshot", "timestamp")
        assert client.download("file") == 0
        assert client.downloaded() == [b"second"]

    def test_another_content_is_refused_and_what_was_here_stays(
        self, client: Client, repository: TufRepository
    ) -> None:
        repository.add_target("targets", "file", b"first")
        repository.publish("targets", "snapshot", "timestamp")
        assert client.download("file") == 0
        file = repository.add_target("targets", "file", b"second")
        repository.publish("targets", "snapshot", "timestamp")
        for wrong in (b"wrong!", b"second, and longer", b"sec", b""):
            repository.files[file] = wrong
            assert client.download("file") == 1
            assert client.downloaded() == [b"first"]

    def test_several_are_fetched_in_order_until_one_fails(
        self, client: Client, repository: TufRepository
    ) -> None:
        for path in ("one", "two", "three"):
            repository.add_target("targets", path, path.encode())
        repository.publish("targets", "snapshot", "timestamp")
        assert client.download("one", "none", "two") == 1
        assert client.downloaded() == [b"one"]
        assert client.download("two", "three", "one") == 0
        assert client.downloaded() == [b"one", b"two", b"three"]

    @pytest.mark.parametrize("hashes", [["sha256"], ["sha512"], ["sha256", "sha512"], ["sha512", "sha256"]])
    def test_kinds_of_hashes(self, hashes: list[str], client: Client, repository: TufRepository) -> None:
        repository.add_target("targets", "file", b"content", hashes)
        repository.publish("targets", "snapshot", "timestamp")
        assert client.download("file") == 0
        assert sum(path.startswith("targets/") for path in repository.requests) == 1

    def test_an_unknown_kind_of_hash_is_refused(self, client: Client, repository: TufRepository) -> None:
        repository.add_target("targets", "file", b"content")
        hashes = repository.targets.targets["file"].hashes
        hashes["unknown"] = hashes.pop("sha256")
        repository.publish("targets", "snapshot", "timestamp")
        assert client.download("file") == 1
        assert client.downloaded() == []
