"""What the store says, verified by TUF from the root that came with the device.

The one module on the device that touches tuf. Around `tuf.ngclient.Updater` it closes what that leaves open:
the updater works on a copy of the trusted metadata, which replaces the old folder whole and fsynced, and a
record of the versions seen outlives damage to that folder, so that no rollback hides behind it.

Source: https://theupdateframework.github.io/specification/latest/, section 5.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tuf.api import exceptions
from tuf.api.metadata import Metadata, TargetFile, Targets
from tuf.ngclient import FetcherInterface, Updater

from edge_agent.control.fetch import Store, StoreFileMissingError
from edge_agent.control.trusted_files import (
    TOP_LEVEL,
    Marks,
    contents_of,
    copy_metadata,
    expiry_of,
    is_target_of,
    key_digests,
    next_name,
    read_signed,
    remove_leftovers,
    role_file,
    role_of,
    signed_part,
    still_binding,
    versions_of,
)
from edge_agent.documents.errors import ArtifactError, StorageError, StoreUnreachableError, TrustError
from edge_agent.store.files import mapping_os_errors, sync_file, sync_folder, write_atomically

_BASE: Final = "metadata/"
_MAX_METADATA_BYTES: Final = 5_000_000


class Trust:
    """One look at the store's metadata; use as a context manager, which commits what was verified.

    `folder` is the state folder's `trust/`, `bootstrap` the content of the root.json that came with the device.
    Methods raise TrustError, ArtifactError, StoreUnreachableError or StorageError.
    """

    def __init__(self, folder: Path, store: Store, bootstrap: bytes, now: datetime) -> None:
        self._folder = folder
        self._bootstrap = bootstrap
        self._now = now
        self._store = store
        self._fetcher = _Fetcher(store)
        self._current = folder / "current"
        self._work = folder / next_name(folder)
        self._marks_file = folder / "versions.json"
        self._used = list(TOP_LEVEL)
        self.warnings: list[str] = []
        self._marks = self._read_marks()
        self._updater: Updater | None = None
        self._verified = frozenset({"root"})
        """Top-level roles whose content in the working folder was verified by this process."""

    def __enter__(self) -> Self:
        with mapping_os_errors(self._folder):
            remove_leftovers(self._folder)
            copy_metadata(self._current, self._work)
        try:
            with self._mapping_errors():
                self._updater = Updater(
                    str(self._work), _BASE, fetcher=self._fetcher, bootstrap=self._bootstrap
                )
        except BaseException:
            shutil.rmtree(self._work, ignore_errors=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Keep what was verified, also when a later step failed: newer roots and timestamps stay trusted."""
        try:
            if kind is None or not issubclass(kind, StorageError):
                self._commit()
        except (StorageError, TrustError):
            if error is None:
                raise
        finally:
            self._updater = None
            if not is_target_of(self._current, self._work):
                shutil.rmtree(self._work, ignore_errors=True)

    def refresh(self) -> None:
        """Fetch and verify the top-level roles; raises TrustError if they are older than what was seen."""
        with self._mapping_errors():
            self._open_updater().refresh()
        self._verified = frozenset(TOP_LEVEL)
        self._check_rollback(versions_of(self._work, self._verified))

    def target(self, path: str, max_bytes: int = 2**20) -> bytes | None:
        """Return the content of a signed target, verified; None if no role lists it.

        Raises ArtifactError if the store's file is not the one that was signed, or is signed to be longer than
        `max_bytes`.
        """
        with self._mapping_errors():
            info = self._open_updater().get_targetinfo(path)
        self._used += [role for role in self._roles_of(path) if role not in self._used]
        if info is None:
            return None
        if info.length > max_bytes:
            raise ArtifactError(
                f"{path} is signed to be {info.length} bytes long, more than {max_bytes} allowed."
            )
        content = self._store.get(_hashed_path(info), info.length + 1)
        try:
            info.verify_length_and_hashes(content)
        except exceptions.LengthOrHashMismatchError as error:
            raise ArtifactError(
                f"The store's {path} is not the file that was signed: publish it again."
            ) from error
        return content

    def check_serial(self, group: str, serial: int) -> None:
        """Raise TrustError if a newer deployment of this group was seen before, else remember this one."""
        seen = self._marks.serials.get(group, 0)
        if serial < seen:
            raise TrustError(
                f"The deployment of group '{group}' has serial {serial}, this device has seen {seen}: deploy "
                "again with a higher serial."
            )
        self._marks.serials[group] = serial

    @property
    def expires_s(self) -> dict[str, float]:
        """When each role that was used expires, Unix time."""
        expiries = {role: expiry_of(read_signed(role_file(self._work, role))) for role in self._used}
        return {role: time.timestamp() for role, time in expiries.items() if time is not None}

    def _open_updater(self) -> Updater:
        if self._updater is None:
            raise RuntimeError("Trust is used outside of its with block")
        return self._updater

    def _roles_of(self, path: str) -> list[str]:
        """Return the roles that targets delegates this path to and that are here."""
        targets: Targets = Metadata[Targets].from_file(str(self._work / "targets.json")).signed
        if targets.delegations is None:
            return []
        roles = [role for role, _ in targets.delegations.get_roles_for_target(path)]
        return [role for role in roles if role_file(self._work, role).is_file()]

    # --- the record of versions ---------------------------------------------------------------------------

    def _read_marks(self) -> Marks:
        try:
            content = json.loads(self._marks_file.read_bytes())
            return Marks(
                versions={str(role): int(version) for role, version in content["versions"].items()},
                keys={str(role): str(digest) for role, digest in content["keys"].items()},
                serials={str(group): int(serial) for group, serial in content["serials"].items()},
            )
        except FileNotFoundError:
            return Marks()
        except OSError as error:
            raise StorageError(f"Cannot read {self._marks_file}: {error.strerror}; check the disk.") from error
        except (ValueError, KeyError, TypeError, AttributeError):
            self.warnings.append(
                f"The record of trusted versions {self._marks_file} was damaged and starts again: check the "
                "disk."
            )
            return Marks()

    def _check_rollback(self, versions: dict[str, int]) -> None:
        marks = still_binding(self._marks, key_digests(self._work))
        for role, version in sorted(versions.items()):
            seen = marks.get(role, 0)
            if version < seen:
                raise TrustError(
                    f"The store went back: its {role} metadata has version {version}, this device has seen "
                    f"{seen}; bring the store up to date or, if it was replaced on purpose, remove "
                    f"{self._folder}."
                )

    def _commit(self) -> None:
        versions = versions_of(self._work, self._verified | self._replaced())
        self._check_rollback(versions)
        keys = key_digests(self._work)
        marks = Marks({**still_binding(self._marks, keys), **versions}, keys, self._marks.serials)
        with mapping_os_errors(self._folder):
            self._write_marks(marks)
            if contents_of(self._work) != contents_of(self._current):
                self._switch()

    def _replaced(self) -> frozenset[str]:
        """Return the roles that the updater wrote, so verified; a file that it only found may be damaged."""
        kept = contents_of(self._current)
        return frozenset(
            role
            for role in TOP_LEVEL
            if (content := contents_of(self._work).get(f"{role}.json")) is not None
            and content != kept.get(f"{role}.json")
        )

    def _write_marks(self, marks: Marks) -> None:
        content = {"versions": marks.versions, "keys": marks.keys, "serials": marks.serials}
        encoded = json.dumps(content, sort_keys=True, indent=1).encode()
        if not self._marks_file.exists() or self._marks_file.read_bytes() != encoded:
            write_atomically(self._marks_file, encoded)

    def _switch(self) -> None:
        for path in self._work.rglob("*"):
            if path.is_dir():
                sync_folder(path)
            elif not path.is_symlink():
                sync_file(path)
        sync_folder(self._work)
        link = self._folder / ".current"
        link.unlink(missing_ok=True)
        link.symlink_to(self._work.name)
        link.replace(self._current)
        sync_folder(self._folder)
        remove_leftovers(self._folder)

    # --- errors -------------------------------------------------------------------------------------------

    @contextmanager
    def _mapping_errors(self) -> Iterator[None]:
        try:
            yield
        except exceptions.ExpiredMetadataError as error:
            raise TrustError(self._describe_expired(str(error))) from error
        except exceptions.UnsignedMetadataError as error:
            raise TrustError(
                f"The store's metadata is not signed by the keys that this device trusts ({error}): check that "
                "store.root belongs to this store."
            ) from error
        except exceptions.BadVersionNumberError as error:
            raise TrustError(f"The store's metadata goes back or contradicts itself: {error}.") from error
        except exceptions.LengthOrHashMismatchError as error:
            raise TrustError(f"The store's metadata is not what was signed: {error}.") from error
        except exceptions.RepositoryError as error:
            raise TrustError(f"The store's metadata is malformed: {error}.") from error
        except exceptions.DownloadError as error:
            raise StoreUnreachableError(f"The store's metadata cannot be fetched: {error}.") from error
        except OSError as error:
            raise StorageError(
                f"Cannot write {self._work}: {error.strerror or error}; check that disk."
            ) from error

    def _describe_expired(self, message: str) -> str:
        expired = sorted(
            (time, role) for role, time in self._expiries().items() if time is not None and time <= self._now
        )
        if not expired:
            return f"The store's metadata has expired: {message}; run edge-fleet refresh."
        time, role = expired[0]
        return (
            f"The store's {role} metadata expired on {time:%Y-%m-%d %H:%M} UTC: run edge-fleet refresh; if "
            f"that date is still to come, set this machine's clock, which says {self._now:%Y-%m-%d %H:%M} UTC."
        )

    def _expiries(self) -> dict[str, datetime | None]:
        """Return when each role expires, as fetched last, else as kept here."""
        kept = {role_of(path): expiry_of(read_signed(path)) for path in self._work.glob("*.json")}
        return {
            **kept,
            **{role: expiry_of(signed_part(content)) for role, content in self._fetcher.fetched.items()},
        }


class _Fetcher(FetcherInterface):
    """Lets tuf fetch through a Store, without its own HTTP library and temporary files."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.fetched: dict[str, bytes] = {}
        """What was fetched last of each role."""

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """Return a metadata file; a missing root is told in tuf's terms, since it ends the chain of roots."""
        try:
            content = self._store.get(url, max_length)
        except StoreFileMissingError as error:
            if url.endswith(".root.json"):
                raise exceptions.DownloadHTTPError(str(error), 404) from error
            raise
        self.fetched[role_of(Path(url))] = content
        return content

    def _fetch(self, url: str) -> Iterator[bytes]:
        yield self.download_bytes(url, _MAX_METADATA_BYTES)


def _hashed_path(info: TargetFile) -> str:
    folder, _, name = info.path.rpartition("/")
    digest = next(iter(info.hashes.values()))
    return f"targets/{folder + '/' if folder else ''}{digest}.{name}"
