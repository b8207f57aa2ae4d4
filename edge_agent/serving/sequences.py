"""Sequences: requests of one client to one version, in order, with the state that a streaming model carries on.

What is kept of each, and for how long. Requests of a sequence take turns: only the first of those that are
here runs. What its model gives as state is the next one's input, once the request has been answered with a
result; else the state stays as it was. Nothing here waits or runs anything: `streams` does. For the event
loop's thread.

Source: Triton Inference Server, protocol/extension_sequence.md, and docs/user_guide/architecture.md, "Stateful
Models" (implicit state management).
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeGuard

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_agent.documents.errors import (
    EdgeAgentError,
    ModelLoadError,
    PayloadTooLargeError,
    RequestError,
    TooLateError,
    UnavailableError,
)
from edge_agent.documents.settings import SequenceSettings
from edge_agent.documents.tensors import NUMPY_NAME, TensorSpec
from edge_agent.serving.calls import Call, InferRequest, Results
from edge_agent.serving.parameters import flag

if TYPE_CHECKING:
    from edge_agent.serving.loader import LoadedVersion
    from edge_agent.serving.router import Choice

_ID: Final = "sequence_id"
_LONGEST_ID: Final = 128
_OVERHEAD_BYTES: Final = 500
"""What a sequence takes beside its state."""

AN_UPDATE: Final = "an update has ended it"


class Key(NamedTuple):
    """Which sequence it is: of which model, by which id, and whose; over TCP nobody's (None)."""

    model: str
    id: str
    uid: int | None


class Wish(msgspec.Struct, frozen=True, gc=False):
    """The sequence that a request belongs to, and whether it is the first or last of it."""

    id: str
    starts: bool
    ends: bool


class Kept(msgspec.Struct, eq=False):
    """What a sequence goes on with: who answers it, its state by the names of the inputs, and its batch."""

    choice: "Choice"
    state: dict[str, NDArray[Any]]
    rows: int

    @property
    def size_bytes(self) -> int:
        """What it takes in memory."""
        return _OVERHEAD_BYTES + _size_bytes(self.state)


class Sequence(msgspec.Struct, eq=False):
    """A sequence that has begun or is about to; the first of `turns` is the one that runs."""

    turns: "deque[Turn]"
    kept: Kept | None = None
    used_s: float = 0.0


class Turn(msgspec.Struct, eq=False):
    """A request of a sequence, until it has been answered."""

    key: Key
    version: str | None
    """The version that the request names, if it does."""
    wish: Wish
    call: Call
    next: Kept | None = None
    """What the sequence goes on with if this request is answered with a result; None if it has been ended."""


def wish_of(parameters: Mapping[str, Any]) -> Wish | None:
    """Return which sequence a request belongs to, None if to none, as with an id of 0 or no text.

    A number and the same number as text are the same id. Raises RequestError where it is neither.
    """
    given = parameters.get(_ID)
    if given is None or given == "" or (given == 0 and not isinstance(given, bool)):
        return None
    name = _name(given)
    return Wish(name, flag(parameters, "sequence_start", False), flag(parameters, "sequence_end", False))


def _name(given: Any) -> str:
    if isinstance(given, bool) or not isinstance(given, int | str) or (isinstance(given, int) and given < 1):
        raise RequestError(f"The parameter {_ID} must be a whole number from 1, or text.")
    name = str(given)
    if len(name) > _LONGEST_ID:
        raise RequestError(f"The parameter {_ID} must have {_LONGEST_ID} characters at most.")
    return name


class SequenceStore:
    """The sequences of all models. `release` is told of versions that one less holds; `clock` gives seconds."""

    def __init__(
        self,
        settings: SequenceSettings,
        release: "Callable[[LoadedVersion], None]",
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._release = release
        self._clock = clock
        self._sequences: OrderedDict[Key, Sequence] = OrderedDict()
        """The one that was used longest ago comes first."""
        self._lost: OrderedDict[Key, str] = OrderedDict()
        """Why sequences were ended that their clients believe to go on."""
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._sequences)

    def is_busy(self, key: Key) -> bool:
        """Say whether a request of this sequence would have to wait for another one."""
        sequence = self._sequences.get(key)
        return sequence is not None and bool(sequence.turns)

    def choice(self, key: Key) -> "Choice | None":
        """Return who answers the requests of a sequence at this time, if that is settled."""
        sequence = self._sequences.get(key)
        if sequence is None:
            return None
        kept = sequence.kept or (sequence.turns[0].next if sequence.turns else None)
        return None if kept is None else kept.choice

    def join(self, turn: Turn) -> bool:
        """Take a request into its sequence; say whether it is its turn already.

        Raises RequestError if there is no such sequence and the request does not start it, TooLateError if it
        was ended meanwhile, UnavailableError if there are too many that cannot make room.
        """
        self.sweep()
        sequence = self._sequences.get(turn.key)
        if sequence is None:
            if not turn.wish.starts:
                raise self._unknown(turn.key)
            self._make_room(0, 1, None)
            sequence = self._sequences[turn.key] = Sequence(deque())
        sequence.turns.append(turn)
        self._note_use(turn.key, sequence)
        return len(sequence.turns) == 1

    def begin(self, turn: Turn) -> "Choice | None":
        """Return who answers the request, whose turn it is: None if it starts the sequence.

        Raises RequestError if the sequence has been ended by a request before it or runs on another version
        than this one names.
        """
        kept = self._sequences[turn.key].kept
        if turn.wish.starts:
            return None
        if kept is None:
            raise self._unknown(turn.key)
        version = kept.choice.loaded.plan.version
        if turn.version not in (None, version):
            raise RequestError(f"Sequence '{turn.key.id}' goes on with version {version} alone.")
        return kept.choice

    def fill(self, turn: Turn, choice: "Choice", request: InferRequest) -> dict[str, NDArray[Any]]:
        """Return the state that goes with the request's inputs, by name: zeros if it starts the sequence.

        A free dimension of a state is the batch of the inputs, which then stays the same. Raises RequestError
        for another one, PayloadTooLargeError or UnavailableError if there is no room for the state.
        """
        signature, plan = choice.loaded.signature, choice.loaded.plan
        specs = [signature.inputs[pair.input] for pair in plan.state]
        rows = _rows(request.inputs, signature.inputs)
        kept = self._sequences[turn.key].kept
        if turn.wish.starts or kept is None:
            state = {spec.name: _zeros(spec, rows) for spec in specs}
            self._make_room(_OVERHEAD_BYTES + _size_bytes(state), 0, turn.key)
            turn.next = Kept(choice, state, rows)
        else:
            if kept.rows != rows and any(-1 in spec.shape for spec in specs):
                raise RequestError(
                    f"Sequence '{turn.key.id}' was started with a batch of {kept.rows}, not {rows}; "
                    "start another one."
                )
            turn.next = Kept(choice, kept.state, rows)
        return turn.next.state

    def take(self, turn: Turn, results: Results) -> EdgeAgentError | None:
        """Take the state out of a run's results; return why that cannot be: then the request has failed."""
        upcoming = turn.next
        assert upcoming is not None
        loaded = upcoming.choice.loaded
        state = {}
        for pair in loaded.plan.state:
            tensor = results.get(pair.output)
            if not _fits(tensor, loaded.signature.inputs[pair.input], upcoming.state[pair.input]):
                return ModelLoadError(
                    f"The model's state '{pair.output}' is {_described(tensor)}, which its input "
                    f"'{pair.input}' does not take; its manifest must name other state pairs."
                )
            # A view would keep all of what the runtime gave, and an engine might use its buffer again.
            state[pair.input] = tensor if tensor.flags.owndata else tensor.copy()
        try:
            self._make_room(_OVERHEAD_BYTES + _size_bytes(state), 0, turn.key)
        except EdgeAgentError as error:
            return error
        upcoming.state = state
        return None

    def leave(self, turn: Turn, is_answered: bool) -> Turn | None:
        """Let go of a request, which was answered with a result or was not; return whose turn it is now."""
        sequence = self._sequences[turn.key]
        sequence.turns.remove(turn)
        if is_answered:
            self._keep(sequence, None if turn.wish.ends else turn.next)
            if turn.next is not None:
                self._lost.pop(turn.key, None)
        if not sequence.turns and sequence.kept is None:
            del self._sequences[turn.key]
            return None
        self._note_use(turn.key, sequence)
        return sequence.turns[0] if sequence.turns else None

    def end_of(self, loaded: "LoadedVersion", why: str = AN_UPDATE) -> None:
        """End all sequences of a version; one whose request runs is ended by it. `why` completes "… as …"."""
        for key, sequence in tuple(self._sequences.items()):
            running = sequence.turns[0] if sequence.turns else None
            if running is not None and running.next is not None and running.next.choice.loaded is loaded:
                running.next = None
                self._note_lost(key, why)
            if sequence.kept is not None and sequence.kept.choice.loaded is loaded:
                self._drop(key, sequence, why)

    def sweep(self) -> None:
        """Forget those that have been idle for too long."""
        limit_s = self._clock() - self._settings.idle_s
        idle = []
        for key, sequence in self._sequences.items():
            if sequence.used_s > limit_s:
                break
            if not sequence.turns:
                idle.append((key, sequence))
        for key, sequence in idle:
            self._drop(key, sequence, f"it was idle for over {self._settings.idle_s:g} s (sequences.idle_s)")

    def _note_use(self, key: Key, sequence: Sequence) -> None:
        sequence.used_s = self._clock()
        self._sequences.move_to_end(key)

    def _make_room(self, size_bytes: int, count: int, key: Key | None) -> None:
        """See to it that `count` more sequences, and one of this size in place of `key`, have room.

        Those that were idle longest go. Raises PayloadTooLargeError if it is too large by itself,
        UnavailableError if those that are left all have requests.
        """
        limits = self._settings
        if size_bytes > limits.max_bytes:
            raise PayloadTooLargeError(
                f"The state of this sequence takes {size_bytes} bytes, sequences.max_bytes allows "
                f"{limits.max_bytes} for all; use a smaller batch."
            )
        own = None if key is None else self._sequences[key].kept
        own_bytes = 0 if own is None else own.size_bytes
        idle = ((one, sequence) for one, sequence in tuple(self._sequences.items()) if not sequence.turns)
        while (
            len(self._sequences) + count > limits.max_count
            or self.size_bytes - own_bytes + size_bytes > limits.max_bytes
        ):
            found = next(idle, None)
            if found is None:
                raise UnavailableError(
                    f"{len(self._sequences)} sequences of {self.size_bytes} bytes are busy; try again later, "
                    "or raise sequences.max_count or sequences.max_bytes."
                )
            self._drop(*found, "it made room for others (sequences.max_count and sequences.max_bytes)")

    def _keep(self, sequence: Sequence, kept: Kept | None) -> None:
        before, sequence.kept = sequence.kept, kept
        # Held before the other is released: it may be the same version, and its last sequence.
        if kept is not None:
            self.size_bytes += kept.size_bytes
            kept.choice.loaded.holds += 1
        if before is not None:
            self.size_bytes -= before.size_bytes
            before.choice.loaded.holds -= 1
            self._release(before.choice.loaded)

    def _drop(self, key: Key, sequence: Sequence, why: str) -> None:
        self._keep(sequence, None)
        self._note_lost(key, why)
        if not sequence.turns:
            del self._sequences[key]

    def _note_lost(self, key: Key, why: str) -> None:
        self._lost[key] = why
        self._lost.move_to_end(key)
        while len(self._lost) > self._settings.max_count:
            self._lost.popitem(last=False)

    def _unknown(self, key: Key) -> RequestError:
        model, name, _ = key
        why = self._lost.get(key)
        if why is not None:
            return TooLateError(
                f"Sequence '{name}' of model '{model}' is not known here any more, as {why}; begin it with "
                "sequence_start."
            )
        return RequestError(
            f"Sequence '{name}' of model '{model}' is not known here; begin it with sequence_start, as the "
            "first request of a sequence must have the START flag, also after a restart of the server."
        )


def _rows(inputs: Mapping[str, NDArray[Any]], specs: Mapping[str, TensorSpec]) -> int:
    """Return the batch: the first dimension of the first input that has a free one, else 1."""
    for name, tensor in inputs.items():
        shape = specs[name].shape
        if shape and shape[0] == -1:
            return int(tensor.shape[0])
    return 1


def _zeros(spec: TensorSpec, rows: int) -> NDArray[Any]:
    shape = tuple(rows if size == -1 else size for size in spec.shape)
    if spec.datatype == "BYTES":
        return np.full(shape, b"", np.object_)
    return np.zeros(shape, NUMPY_NAME[spec.datatype])


def _fits(tensor: Any, spec: TensorSpec, before: NDArray[Any]) -> TypeGuard[NDArray[Any]]:
    """Say whether what a run gave can be the next one's input; a plug-in may give anything."""
    return isinstance(tensor, np.ndarray) and spec.accepts(tensor.shape) and tensor.dtype == before.dtype


def _described(tensor: Any) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}" if isinstance(tensor, np.ndarray) else "missing"


def _size_bytes(state: Mapping[str, NDArray[Any]]) -> int:
    return sum(tensor.nbytes for tensor in state.values())
