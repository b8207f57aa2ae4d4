"""The sync child: looks at the store, and brings what this device shall run into the state folder.

`python -m edge_agent.control.sync` reads one SyncRequest from standard input, writes SyncProgress lines and one
SyncResult to standard output, logs to standard error, and exits 0. This module is the light half: as long as
the store's timestamp stands still, tuf, pydantic and numpy (`edge_agent.control.pull`) are never imported.
"""

import hashlib
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from edge_agent import __version__
from edge_agent.control.deadline import Deadline
from edge_agent.control.fetch import Store, is_network, open_store
from edge_agent.control.metering import Clocks, Meter
from edge_agent.control.trusted_files import read_marks
from edge_agent.documents.errors import (
    DownloadPausedError,
    EdgeAgentError,
    ModelError,
    OperatorError,
    SettingsError,
    StorageError,
    StoreUnreachableError,
    TrustError,
    UnavailableError,
)
from edge_agent.documents.ipc import FromSync, SyncProgress, SyncRequest, SyncResult
from edge_agent.documents.settings import Settings
from edge_agent.policy import expiry
from edge_agent.policy.trusted_time import Times
from edge_agent.store.files import mapping_os_errors, write_atomically
from edge_agent.store.layout import StateLayout, state_layout

if TYPE_CHECKING:
    from edge_agent.control.pull import Pulled

Kind = Literal["network", "trust", "model", "operator"]

TIMESTAMP: Final = "metadata/timestamp.json"
MAX_TIMESTAMP_BYTES: Final = 16384

log = logging.getLogger("edge_agent.sync")


class LastSync(msgspec.Struct, frozen=True):
    """How the last complete sync ended: `trust/last_sync.json`."""

    fingerprint: str
    etag: str
    plan: str
    """The plan's id."""
    files: tuple[str, ...]
    """Digests of the plan's files."""
    expires_s: dict[str, float]
    """When each role that was used expires, Unix time."""
    next_wave_s: float | None
    """When the next wave of the deployment comes due, Unix time."""


def synchronize(
    request: SyncRequest,
    now: datetime,
    report: Callable[[SyncProgress], None],
    clocks: Clocks | None = None,
) -> SyncResult:
    """Look at the store once, and return `unchanged` or `plan`; raises EdgeAgentError for everything else.

    `clocks` are those of the limits of downloads.
    """
    layout = state_layout(request.settings.paths)
    layout.create()
    root = _bootstrap_root(request.settings)
    fingerprint = _fingerprint(request, root)
    times = _times(layout, now)
    deadline = Deadline(request.settings.store.metadata_deadline_s)
    # A medium that somebody has brought costs nothing and waits for nothing.
    limits = request.settings if is_network(request.settings.store, request.folder) else Settings()
    meter = Meter(limits, layout, at_once=request.at_once, clocks=clocks)
    store = open_store(request.settings.store, request.folder, meter.count)
    try:
        last = _usable(_read_last(layout), request, fingerprint, layout, times.now)
        etag = last.etag if last else None
        polled = deadline.within(lambda: store.poll(TIMESTAMP, MAX_TIMESTAMP_BYTES, etag))
        if last is not None and not polled.changed:
            return _unchanged(last, times)
        pulled = _pull(request, layout, root, store, meter, times, deadline, report)
    finally:
        store.close()
        meter.close()
    done = LastSync(
        fingerprint, polled.etag, pulled.plan.id, pulled.files, pulled.expires_s, pulled.next_wave_s
    )
    problem = _keep(layout, done) if pulled.is_settled else ()
    return SyncResult(
        status="plan",
        plan=pulled.plan,
        expires_s=min(pulled.expires_s.values(), default=None),
        warnings=(*pulled.warnings, *problem, *_warnings(pulled.expires_s, pulled.times)),
        downloaded_bytes=pulled.downloaded_bytes,
    )


def attempt(request: SyncRequest, now: datetime, report: Callable[[SyncProgress], None]) -> SyncResult:
    """Synchronize, and return a failure as a result too, with what is to be said of the time beside it."""
    try:
        return synchronize(request, now, report)
    except BrokenPipeError:
        raise
    except EdgeAgentError as error:
        failed = failure(error)
    except Exception as error:
        log.exception("The sync stopped at an error of its own")
        failed = failure(error)
    return msgspec.structs.replace(failed, warnings=_beside(failed, request, now))


def failure(error: Exception) -> SyncResult:
    """Return the result that tells an error and who can repair it, or what is waited for."""
    kinds: tuple[tuple[type[Exception], Kind], ...] = (
        (UnavailableError, "network"),
        (TrustError, "trust"),
        (ModelError, "model"),
    )
    kind: Kind = next((kind for cls, kind in kinds if isinstance(error, cls)), "operator")
    message = str(error)
    if isinstance(error, DownloadPausedError):
        return SyncResult(status="paused", message=message, waits_for=error.reason, until_s=error.until_s)
    retry_after_s = error.retry_after_s if isinstance(error, StoreUnreachableError) else 0.0
    if not isinstance(error, EdgeAgentError):
        message = f"The sync stopped at an error of its own ({type(error).__name__}: {error}); see the log."
    return SyncResult(status="failed", kind=kind, message=message, retry_after_s=retry_after_s)


def main() -> int:
    """Run one sync for the supervisor; always exits 0 with a result, unless nobody reads it any more."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        _write(_run(sys.stdin.buffer.readline()))
    except BrokenPipeError:
        return 1
    return 0


def _run(line: bytes) -> SyncResult:
    try:
        request = msgspec.json.decode(line, type=SyncRequest)
    except msgspec.MsgspecError as error:
        return failure(OperatorError(f"The sync request is malformed: {error}."))
    return attempt(request, datetime.now(UTC), _write)


def _write(message: FromSync) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
    sys.stdout.buffer.flush()


def _pull(
    request: SyncRequest,
    layout: StateLayout,
    root: bytes,
    store: Store,
    meter: Meter,
    times: Times,
    deadline: Deadline,
    report: Callable[[SyncProgress], None],
) -> "Pulled":
    # Imported only now: tuf, pydantic and numpy cost 0.4 s and 50 MB that a poll without news must not take.
    from edge_agent.control.pull import pull

    return pull(request, layout, root, store, meter, times, deadline, report)


def _bootstrap_root(settings: Settings) -> bytes:
    if settings.store.root is None:
        raise SettingsError(
            "No trusted root is set: copy the store's root.json to this device and set store.root to its path."
        )
    try:
        return Path(settings.store.root).read_bytes()
    except OSError as error:
        raise SettingsError(
            f"The trusted root {settings.store.root} cannot be read ({error.strerror}): set store.root to the "
            "root.json of your store."
        ) from error


def _fingerprint(request: SyncRequest, root: bytes) -> str:
    """Digest everything beside the store's content that decides the outcome.

    What is installed counts through the folders of installed packages: installing one changes their time.
    """
    settings = request.settings
    facts = (
        __version__,
        request.folder or settings.store.url,
        hashlib.sha256(root).hexdigest(),
        settings.device,
        settings.engines,
        settings.paths.state,
        request.quarantined,
        [_modified_ns(Path(entry)) for entry in sys.path if entry.endswith("-packages")],
    )
    return hashlib.sha256(msgspec.json.encode(facts, order="sorted")).hexdigest()


def _modified_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _last_file(layout: StateLayout) -> Path:
    return layout.trust / "last_sync.json"


def _read_last(layout: StateLayout) -> LastSync | None:
    try:
        return msgspec.json.decode(_last_file(layout).read_bytes(), type=LastSync)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None  # without it the sync only looks at more than it must


def _usable(
    last: LastSync | None, request: SyncRequest, fingerprint: str, layout: StateLayout, now: datetime
) -> LastSync | None:
    """Return the last sync if an unchanged timestamp would mean an unchanged outcome."""
    if last is None or request.force or last.fingerprint != fingerprint:
        return None
    if request.known_plans is not None and last.plan not in request.known_plans:
        return None
    if last.next_wave_s is not None and last.next_wave_s <= now.timestamp():
        return None
    if not all(layout.blob(sha256).is_file() for sha256 in last.files):
        return None
    return last


def _unchanged(last: LastSync, times: Times) -> SyncResult:
    return SyncResult(
        status="unchanged",
        expires_s=min(last.expires_s.values(), default=None),
        warnings=_warnings(last.expires_s, times),
    )


def _times(layout: StateLayout, clock: datetime) -> Times:
    with mapping_os_errors(layout.trust):
        marks, _ = read_marks(layout.trust)  # that they are damaged is told by who verifies
    installed = _modified_ns(Path(__file__)) / 1e9
    return Times(clock, datetime.fromtimestamp(installed, UTC), marks.proven)


def _beside(failed: SyncResult, request: SyncRequest, clock: datetime) -> tuple[str, ...]:
    """Return what to say beside a failure: of a wrong clock, and of what expires while no store answers."""
    layout = state_layout(request.settings.paths)
    last = _read_last(layout) if failed.kind == "network" else None
    try:
        return _warnings({} if last is None else last.expires_s, _times(layout, clock))
    except StorageError:
        return ()


def _warnings(expires_s: dict[str, float], times: Times) -> tuple[str, ...]:
    doubt = () if times.doubt is None else (times.doubt,)
    return (*doubt, *expiry.warnings(expires_s, times))


def _keep(layout: StateLayout, last: LastSync) -> tuple[str, ...]:
    try:
        if last != _read_last(layout):
            write_atomically(_last_file(layout), msgspec.json.encode(last))
    except StorageError as error:
        return (str(error),)
    return ()


if __name__ == "__main__":
    sys.exit(main())
