"""Results that are remembered: what a model file answered to the same question before.

A question is known by a digest of everything that its answer depends on, keyed with bytes that this process
alone knows, so that nobody can make up two questions with one digest (docs/decisions/0005-cache-digest.md).
What is kept are the output arrays; each answer is rendered for its own request. For one thread.
"""

import hashlib
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from numpy.typing import NDArray

from edge_agent.documents import binary_tensors
from edge_agent.documents.plan import ModelPlan, VersionPlan
from edge_agent.documents.settings import CacheSettings
from edge_agent.serving.calls import InferRequest, Results, Signature
from edge_agent.telemetry.counters import CacheCounters

WINDOW: Final = 512
REST: Final = 8 * WINDOW

ENTRY_BYTES: Final = 800
"""What an entry takes beside its arrays: key, dictionaries, bookkeeping; measured with tracemalloc."""
ARRAY_BYTES: Final = 200
"""What an array takes beside its elements."""

_NEUTRAL: Final = frozenset({"binary_data_output", "cache", "timeout", "unit"})
"""Request parameters that change nothing in what a model answers; any other may, and is part of the key."""

_STATEFUL: Final = "sequence_"
"""Requests of a sequence depend on those before them: they are never remembered."""


class Remembered(msgspec.Struct, frozen=True, gc=False, eq=False):
    """What a model file answered to a question; another object each time it is put."""

    results: Results
    sha256: str
    size_bytes: int
    stored_s: float


class Worth:
    """Whether remembering pays for one model file.

    After each window of 512 lookups the time of the runs that hits have saved is compared with the time that
    looking up and remembering took. Where they saved less the cache rests for this file: the next 4096 requests
    bypass it, and then it is tried again, with what it still remembers. So a model whose requests never repeat
    pays for a ninth of the lookups, and one that takes long is looked up even if few repeat.
    """

    __slots__ = ("_lookups", "_resting", "_saved_ns", "_spent_ns")

    def __init__(self) -> None:
        self._resting = 0
        self._begin()

    def _begin(self) -> None:
        self._lookups = 0
        self._spent_ns = self._saved_ns = 0.0

    def allow(self) -> bool:
        """Say whether the next request shall be looked up."""
        if not self._resting:
            return True
        self._resting -= 1
        return False

    def note_lookup(self, spent_ns: float) -> None:
        """Count a lookup and what it took; at the end of a window, decide."""
        if self._lookups == WINDOW:
            if self._saved_ns < self._spent_ns:
                self._resting = REST
            self._begin()
        self._lookups += 1
        self._spent_ns += spent_ns

    def note_spent(self, spent_ns: float) -> None:
        """Count what remembering a result took."""
        self._spent_ns += spent_ns

    def note_saved(self, run_ns: float) -> None:
        """Count a run that was not needed."""
        self._saved_ns += run_ns


class _Share:
    """What one model's results may take, and those that do, the least recently used first."""

    __slots__ = ("bytes", "keys", "max_bytes")

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self.keys: OrderedDict[bytes, None] = OrderedDict()


class ResultCache:
    """The results of all models, bounded in bytes; the least recently used go first.

    A model with a share of its own makes room among its own results as soon as they take that much.

    `clock_s` is monotonic. `secret` is 64 bytes of this process's own.
    """

    def __init__(
        self, settings: CacheSettings, secret: bytes, counters: CacheCounters, clock_s: Callable[[], float]
    ) -> None:
        self._settings = settings
        self._keyed = hashlib.sha256(secret)
        self._counters = counters
        self._clock_s = clock_s
        self._entries: OrderedDict[bytes, Remembered] = OrderedDict()
        self._worths: dict[str, Worth] = {}
        self._shares: dict[str, _Share] = {}

    @property
    def max_bytes(self) -> int:
        """What all that is remembered may take."""
        return self._settings.max_bytes

    def worth(self, sha256: str) -> Worth:
        """Return the account of a served model file; a new one for a file that is not served any more."""
        return self._worths.get(sha256) or Worth()

    def key(
        self, plan: VersionPlan, policy: ModelPlan, signature: Signature, request: InferRequest, size_bytes: int
    ) -> bytes | None:
        """Return what the request's result is remembered by, or None if it is not to be remembered.

        `size_bytes` is the size of the input arrays. Two requests have the same key only if the model file, the
        engine, each input's name, datatype, shape and content, the wanted outputs and all parameters that could
        matter are the same.
        """
        limit = policy.cache_max_input_bytes
        limit = self._settings.max_input_bytes if limit is None else limit
        if not self._settings.max_bytes or not policy.cache or size_bytes > limit:
            return None
        parameters = _relevant(request.parameters) if request.parameters else ""
        if parameters is None:
            return None
        described: list[Any] = [plan.engine, plan.sha256, sorted(request.outputs), parameters]
        contents = []
        for name in sorted(request.inputs):
            tensor, datatype = request.inputs[name], signature.inputs[name].datatype
            content = binary_tensors.encode(tensor, datatype)
            described.append((name, datatype, tensor.shape, content.nbytes))
            contents.append(content)
            # An array of BYTES is larger than its references.
            if content.nbytes > limit:
                return None
        digest = self._keyed.copy()
        # MessagePack ends by itself and says how long each content is, so that no two requests read the same.
        digest.update(msgspec.msgpack.encode(described))
        for content in contents:
            digest.update(content)
        return digest.digest()

    def get(self, key: bytes, ttl_s: float | None) -> Remembered | None:
        """Return what is remembered and not older than `ttl_s`; where that is None, the device's setting."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        ttl_s = self._settings.ttl_s if ttl_s is None else ttl_s
        if ttl_s is not None and self._clock_s() - entry.stored_s >= ttl_s:
            self._remove(key)
            return None
        self._entries.move_to_end(key)
        if self._shares and (share := self._shares.get(entry.sha256)) is not None:
            share.keys.move_to_end(key)
        return entry

    def put(self, key: bytes, sha256: str, results: Results) -> None:
        """Remember copies of a result, unless its model file is not served any more or it is too large."""
        if sha256 not in self._worths:
            return
        size_bytes = ENTRY_BYTES + sum(map(_size_bytes, results.values()))
        share = self._shares.get(sha256)
        if size_bytes > (self._settings.max_bytes if share is None else share.max_bytes):
            return
        try:
            kept = {name: _frozen(array) for name, array in results.items()}
        except MemoryError:
            return
        self._remove(key)
        if share is not None:
            self._make_room_in(share, size_bytes)
        if not self.reserve(size_bytes):
            return
        self._entries[key] = Remembered(kept, sha256, size_bytes, self._clock_s())
        self._counters.entries += 1
        if share is not None:
            share.keys[key] = None
            share.bytes += size_bytes

    def reserve(self, size_bytes: int) -> bool:
        """Take this much of the memory, for which results make room; say whether there was enough."""
        while self._entries and self._counters.bytes + size_bytes > self._settings.max_bytes:
            self._evict(next(iter(self._entries)))
        if self._counters.bytes + size_bytes > self._settings.max_bytes:
            return False
        self._counters.bytes += size_bytes
        return True

    def release(self, size_bytes: int) -> None:
        """Give back what was reserved."""
        self._counters.bytes -= size_bytes

    def keep(self, models: Mapping[str, str], shares: Mapping[str, float | None]) -> None:
        """Forget the results of all model files but these.

        `models` names the model of each digest, `shares` the share of the memory that a model may take.
        """
        for key in [key for key, entry in self._entries.items() if entry.sha256 not in models]:
            self._remove(key)
        self._worths = {sha256: self._worths.get(sha256) or Worth() for sha256 in models}
        limits = {
            model: _Share(int(share * self._settings.max_bytes))
            for model, share in shares.items()
            if share is not None
        }
        self._shares = {sha256: limits[model] for sha256, model in models.items() if model in limits}
        for key, entry in self._entries.items():
            if (share := self._shares.get(entry.sha256)) is not None:
                share.keys[key] = None
                share.bytes += entry.size_bytes
        for share in limits.values():
            self._make_room_in(share, 0)

    def _make_room_in(self, share: _Share, size_bytes: int) -> None:
        while share.keys and share.bytes + size_bytes > share.max_bytes:
            self._evict(next(iter(share.keys)))

    def _evict(self, key: bytes) -> None:
        self._remove(key)
        self._counters.evictions += 1

    def _remove(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        self._counters.entries -= 1
        self._counters.bytes -= entry.size_bytes
        if (share := self._shares.get(entry.sha256)) is not None:
            share.bytes -= entry.size_bytes
            del share.keys[key]


def _relevant(parameters: Mapping[str, Any]) -> str | None:
    """Return the parameters that could change an answer as text, or None for one that depends on others."""
    if any(name.startswith(_STATEFUL) for name in parameters):
        return None
    relevant = sorted(item for item in parameters.items() if item[0] not in _NEUTRAL)
    # As Python writes them, since MessagePack has no room for integers of any size.
    return repr(relevant) if relevant else ""


def _size_bytes(array: NDArray[Any]) -> int:
    size: int = ARRAY_BYTES + array.nbytes
    return size + sum(map(sys.getsizeof, array.flat)) if array.dtype.hasobject else size


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    """Return a copy that nothing can change; its elements' memory is its own, and no larger than they are."""
    copy = array.copy()
    copy.flags.writeable = False
    return copy
