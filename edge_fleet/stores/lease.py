"""A lock for places that know no locks: an object with an expiry, written first and compared afterwards.

A writer puts an object of its own under `.lock/`, then lists that folder. Alone in there, it holds the store;
with company it takes its object back and tries again after a random pause. Of two writers the later one always
sees the earlier one's object, as long as a listing shows what was put before it, which S3, Google Cloud Storage
and Azure promise: so never two hold the store. A holder that was killed is waited for until its lease ends.

Leases are compared with each writer's own clock: clocks that differ by more than `_MARGIN` void the promise,
and so does a holder that is halted for longer than that between `check` and the put that follows it.
"""

import os
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from edge_agent.documents.errors import StateLockedError, StorageError

if TYPE_CHECKING:
    from edge_fleet.stores.objects import ObjectFiles

_FOLDER: Final = ".lock/"
_LIFE: Final = timedelta(minutes=4)
_MARGIN: Final = timedelta(minutes=1)
_RENEWAL_S: Final = 60.0
_PATIENCE_S: Final = 60.0
_FORMAT: Final = "%Y%m%dT%H%M%SZ"


class Lease:
    """One writer's lease of a store, renewed on a thread of its own while it is held."""

    def __init__(self, files: "ObjectFiles", patience_s: float = _PATIENCE_S) -> None:
        self._files = files
        self._patience_s = patience_s
        self._owner = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(8).hex()}"
        self._expires: datetime | None = None
        self._over = threading.Event()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the store; raises StateLockedError if another holds it for longer than the patience."""
        try:
            self._take()
        except BaseException:
            # An own lease that stays would keep even the next try waiting.
            with suppress(StorageError):
                self._drop()
            raise
        self._over.clear()
        renewing = threading.Thread(target=self._keep, name="store lease", daemon=True)
        renewing.start()
        try:
            yield
        finally:
            self._over.set()
            renewing.join()
            self._drop()

    def check(self) -> None:
        """Raise StorageError if the lease ends too soon to change what others see."""
        if self._expires is not None and self._expires - _now() < _MARGIN:
            raise StorageError(
                f"The lock on {self._files} ran out: nothing was published, run the command again."
            )

    def _keep(self) -> None:
        while not self._over.wait(_RENEWAL_S):
            # Without a network the lease runs out, and `check` tells the writer.
            with suppress(StorageError):
                self._renew()

    def _renew(self) -> None:
        self.check()
        old = self._expires
        self._put()
        if old is not None:
            self._files.delete(self._name(old))

    def _take(self) -> None:
        deadline = time.monotonic() + self._patience_s
        while True:
            self._put()
            others = self._others()
            if not others:
                return
            self._drop()
            if time.monotonic() > deadline:
                expires, _, owner = max(others).partition("-")
                raise StateLockedError(
                    f"{self._files} is being changed by {owner.rpartition('-')[0]}: try again when that has "
                    f"ended; if it was killed, its lock ends at {_time(expires):%H:%M:%S} UTC."
                )
            time.sleep(random.uniform(0.1, 1.0))  # noqa: S311 - so that two do not wait in step

    def _others(self) -> list[str]:
        """Return the living leases of others, and remove the dead ones."""
        names = [file.name.removeprefix(_FOLDER) for file in self._files.list(_FOLDER)]
        others = [name for name in names if name.partition("-")[2] != self._owner]
        dead = [name for name in others if _time(name.partition("-")[0]) + _MARGIN < _now()]
        for name in dead:
            self._files.delete(_FOLDER + name)
        return [name for name in others if name not in dead]

    def _put(self) -> None:
        self._expires, before = (_now() + _LIFE).replace(microsecond=0), self._expires
        try:
            self._files.write(self._name(self._expires), b"")
        except StorageError:
            self._expires = before or self._expires
            raise

    def _drop(self) -> None:
        if self._expires is not None:
            self._files.delete(self._name(self._expires))
            self._expires = None

    def _name(self, expires: datetime) -> str:
        return f"{_FOLDER}{expires.strftime(_FORMAT)}-{self._owner}"


def _now() -> datetime:
    return datetime.now(UTC)


def _time(text: str) -> datetime:
    """Read an expiry; a name that is none counts as long over."""
    try:
        return datetime.strptime(text, _FORMAT).replace(tzinfo=UTC)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC) + _LIFE
