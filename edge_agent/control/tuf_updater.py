"""TUF's client workflow in memory: tuf's updater with our way of fetching, our time, and no disk to write to.

The one module on the device that touches tuf. `tuf.ngclient.Updater` writes to its folder from its constructor
on, without a flush, and asks the machine's clock. Here it only reads that folder; what it verified is handed to
who asked, in memory, so that a full disk does not stop a check and nothing half-written can be left.

Source: https://theupdateframework.github.io/specification/latest/, section 5.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from tuf.api import exceptions
from tuf.api.metadata import TargetFile, Targets
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from edge_agent.control.fetch import StoreFileMissingError
from edge_agent.control.trusted_files import contents_of, expiry_of, role_of, signed_part
from edge_agent.documents.errors import StorageError, StoreUnreachableError, TrustError
from edge_agent.policy.expiry import remedy
from edge_agent.policy.trusted_time import Times

_BASE: Final = "metadata/"
_MAX_METADATA_BYTES: Final = 5_000_000
_LIMITS: Final = UpdaterConfig(max_root_rotations=256, max_delegations=32)
"""Roots followed in one look, and roles searched for one target: no chain is endless, no loop goes on."""

_EXPIRED: Final = re.compile(r"(Final |New )?(?P<role>.+?)(\.json)? is expired")
"""What tuf says of a role that expired."""

Fetch = Callable[[str, int], bytes]
"""Gets a file of the store by its path, of at most so many bytes; raises StoreUnreachableError."""


@dataclass(frozen=True, slots=True)
class SignedTarget:
    """A target that a role signs."""

    file: str
    """Where the store keeps it, relative to its base."""
    length_bytes: int
    is_content: Callable[[bytes], bool]
    """Says whether a content is the one that was signed."""


class TufUpdater:
    """One run of the client workflow over what is kept in `folder`, which may be missing.

    `bootstrap` is the root that is trusted to begin with. `times_by` gives the time as of which metadata is
    judged; it is asked once the newest root is known, with that root's signed part. Methods raise TrustError,
    StoreUnreachableError or StorageError.
    """

    def __init__(
        self, folder: Path, bootstrap: bytes, fetch: Fetch, times_by: Callable[[dict[str, Any]], Times]
    ) -> None:
        self._folder = folder
        self._fetcher = _Fetcher(fetch)
        self._times: Times | None = None
        with self._mapping_errors():
            self._updater = _ReadingUpdater(folder, self._fetcher, bootstrap, self._time)
        self._times_by = times_by

    @property
    def written(self) -> dict[str, bytes]:
        """What was verified in this run, by file name: to be kept beside or instead of what the folder has."""
        return self._updater.written

    @property
    def expires(self) -> dict[str, datetime]:
        """When each role that was used expires."""
        return self._updater.expires

    def refresh(self) -> None:
        """Fetch and verify the top-level roles."""
        with self._mapping_errors():
            self._updater.refresh()

    def find(self, path: str) -> SignedTarget | None:
        """Return the target of this path, None if no role lists it; fetches the roles that may list it."""
        with self._mapping_errors():
            info = self._updater.get_targetinfo(path)
        if info is None:
            return None
        return SignedTarget(self._file_of(info), info.length, lambda content: _is_content(info, content))

    def _file_of(self, info: TargetFile) -> str:
        folder, slash, name = info.path.rpartition("/")
        if self._updater.is_consistent:
            name = f"{next(iter(info.hashes.values()))}.{name}"
        return f"targets/{folder}{slash}{name}"

    def _time(self) -> datetime:
        self._times = self._times_by(signed_part(self.written["root.json"]))
        return self._times.now

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
                f"store.root belongs to this store{self._withheld_root()}."
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
                f"Cannot read {self._folder}: {error.strerror or error}; check that disk."
            ) from error

    def _withheld_root(self) -> str:
        """Return what to say of the root that the store did not give out: that it has none may be a lie."""
        if self._fetcher.missing_root is None:
            return ""
        return (
            f"; if its keys were replaced, a newer root is withheld: the store gives out no "
            f"{self._fetcher.missing_root}"
        )

    def _describe_expired(self, message: str) -> str:
        match = _EXPIRED.fullmatch(message)
        role = match["role"] if match is not None else ""
        time = self._seen_expiries().get(role)
        if time is None or self._times is None:
            return f"The store's metadata has expired: {message}; refresh the store ({remedy(role)})."
        withheld = self._withheld_root() if role == "root" else ""
        return (
            f"The store's {role} metadata expired on {time:%Y-%m-%d %H:%M} UTC: refresh the store "
            f"({remedy(role)}){withheld}; if that date is still to come, {self._times.remedy}."
        )

    def _seen_expiries(self) -> dict[str, datetime]:
        """Return when each role expires, as fetched last, else as kept here."""
        kept = {role_of(Path(name)): expiry_of(signed_part(c)) for name, c in contents_of(self._folder).items()}
        fetched = {role: expiry_of(signed_part(content)) for role, content in self._fetcher.fetched.items()}
        return {role: time for role, time in {**kept, **fetched, **self.expires}.items() if time is not None}


class _ReadingUpdater(Updater):
    """tuf's updater, which keeps what it would write.

    Where it reads from a file, what it would have written there in this run goes first.
    """

    def __init__(
        self, folder: Path, fetcher: "_Fetcher", bootstrap: bytes, reference_time: Callable[[], datetime]
    ) -> None:
        self.written: dict[str, bytes] = {}
        self.expires: dict[str, datetime] = {}
        self._reference_time = reference_time
        super().__init__(str(folder), _BASE, fetcher=fetcher, bootstrap=bootstrap, config=_LIMITS)

    @property
    def is_consistent(self) -> bool:
        """Whether files carry their version or digest in their names."""
        return bool(self._trusted_set.root.consistent_snapshot)

    def refresh(self) -> None:
        super().refresh()
        for signed in (self._trusted_set.root, self._trusted_set.timestamp, self._trusted_set.snapshot):
            self.expires[signed.type] = signed.expires

    def _load_root(self) -> None:
        super()._load_root()
        self._trusted_set.reference_time = self._reference_time()

    def _load_targets(self, role: str, parent_role: str) -> Targets:
        targets = super()._load_targets(role, parent_role)
        self.expires[role] = targets.expires
        return targets

    def _load_local_metadata(self, rolename: str) -> bytes:
        content = self.written.get(_file_name(rolename))
        return super()._load_local_metadata(rolename) if content is None else content

    def _persist_metadata(self, rolename: str, data: bytes) -> None:
        self.written[_file_name(rolename)] = data

    def _persist_root(self, version: int, data: bytes) -> None:
        self.written[_root_name(version)] = data

    def _update_root_symlink(self) -> None:
        name = _root_name(self._trusted_set.root.version)
        content = self.written.get(name)
        self.written["root.json"] = Path(self._dir, name).read_bytes() if content is None else content


class _Fetcher(FetcherInterface):
    """Lets tuf fetch by our means, without its own HTTP library and temporary files."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch_file = fetch
        self.fetched: dict[str, bytes] = {}
        """What was fetched last of each role."""
        self.missing_root: str | None = None
        """The root at which the chain ended, since the store has none of this name, or says so."""

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """Return a metadata file; a missing root is told in tuf's terms, since it ends the chain of roots."""
        try:
            content = self._fetch_file(url, max_length)
        except StoreFileMissingError as error:
            if url.endswith(".root.json"):
                self.missing_root = url
                raise exceptions.DownloadHTTPError(str(error), 404) from error
            raise
        self.fetched[role_of(Path(url))] = content
        return content

    def _fetch(self, url: str) -> Iterator[bytes]:
        yield self.download_bytes(url, _MAX_METADATA_BYTES)


def _file_name(role: str) -> str:
    return f"{quote(role, '')}.json"


def _root_name(version: int) -> str:
    return f"root_history/{version}.root.json"


def _is_content(info: TargetFile, content: bytes) -> bool:
    try:
        info.verify_length_and_hashes(content)
    except exceptions.LengthOrHashMismatchError:
        return False
    return True
