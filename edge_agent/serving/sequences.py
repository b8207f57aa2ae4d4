"""Sequences: requests that follow each other, with the state that a streaming model hands from one to the next.

What is kept of a sequence is the version that it began on and, for each state of the model, what its last run
gave. Its requests run one after the other. A request that fails leaves the state as it was. For the event
loop's thread.

Source: Triton Inference Server, protocol/extension_sequence.md, and docs/user_guide/architecture.md, "Stateful
Models" (implicit state management).
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_agent.documents.errors import RequestError, UnavailableError
from edge_agent.documents.settings import SequenceSettings
from edge_agent.documents.tensors import NUMPY_NAME, TensorSpec
from edge_agent.serving.calls import Call, Results
from edge_agent.serving.loader import LoadedVersion
from edge_agent.serving.parameters import flag
from edge_agent.serving.router import Choice

_ID: Final = "sequence_id"
_LONGEST_ID: Final = 128
_WAITING_LIMIT: Final = 64
"""Requests of one sequence that may wait for the one before them."""
_STATE_BYTES: Final = 500
"""What a sequence takes beside its state."""

Key = tuple[str, str]


class Order(msgspec.Struct, frozen=True, gc=False):
    """What the parameters of a request say of its place in a sequence."""

    id: str
    is_start: bool
    is_end: bool


def order_of(parameters: Mapping[str, Any]) -> Order | None:
    """Return a request's place in a sequence, None if it is in none; 0 and no text are no sequence.

    A number and the same number as text are the same sequence. Raises RequestError where it is neither.
    """
    given = parameters.get(_ID)
    if given is None or given == 0 or given == "":
        return None
    if isinstance(given, bool) or not isinstance(given, int | str) or (isinstance(given, int) and given < 0):
        raise RequestError(f"The parameter {_ID} must be a whole number from 1, or text.")
    name = str(given)
    if len(name) > _LONGEST_ID:
        raise RequestError(f"The parameter {_ID} must have {_LONGEST_ID} characters at most.")
    return Order(name, flag(parameters, "sequence_start", False), flag(parameters, "sequence_end", False))


class Sequence:
    """One sequence: who answers it, its state by input, and the requests that wait for their turn."""

    __slots__ = ("choice", "is_running", "key", "size_bytes", "state", "used_s", "waiting")

    def __init__(self, key: Key, choice: Choice) -> None:
        self.key = key
        self.choice = choice
        self.state: dict[str, NDArray[Any]] = {}
        self.waiting: deque[tuple[Call, Order]] = deque()
        self.is_running = False
        self.used_s = 0.0
        self.size_bytes = _STATE_BYTES

    def wait(self, call: Call, order: Order) -> None:
        """Have a request wait for the one before it; raises UnavailableError where too many do."""
        if len(self.waiting) >= _WAITING_LIMIT:
            raise UnavailableError(
                f"{len(self.waiting)} requests of sequence '{self.key[1]}' wait; send one after the other."
            )
        self.waiting.append((call, order))

    def inputs(self, given: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the inputs of the next run: those that are given, and the state, which begins with zeros."""
        loaded = self.choice.loaded
        specs = loaded.signature.inputs
        batch = _batch(given, specs)
        inputs = dict(given)
        for pair in loaded.plan.state:
            kept = self.state.get(pair.input)
            inputs[pair.input] = _zeros(specs[pair.input], batch) if kept is None else kept
        return inputs


class Sequences:
    """All sequences, bounded in number, bytes and age; `release` is told of versions that one less holds."""

    def __init__(
        self,
        settings: SequenceSettings,
        clock_s: Callable[[], float],
        release: Callable[[LoadedVersion], None],
    ) -> None:
        self._settings = settings
        self._clock_s = clock_s
        self._release = release
        self._sequences: OrderedDict[Key, Sequence] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._sequences)

    def enter(self, model: str, order: Order, choose: Callable[[], Choice]) -> Sequence:
        """Return the sequence of a request, a new one at its start, whose version `choose` names.

        Raises RequestError for one that has not begun, or was forgotten; UnavailableError for one too many.
        """
        self.sweep()
        key = (model, order.id)
        if not order.is_start:
            sequence = self._sequences.get(key)
            if sequence is None:
                raise RequestError(
                    f"Sequence '{order.id}' of model '{model}' is not known here; begin it with sequence_start "
                    "(it may have been idle too long, or ended by an update or a restart)."
                )
        else:
            sequence = Sequence(key, choose())
            self._forget(key)
            self._make_room()
            self._sequences[key] = sequence
            self.bytes += sequence.size_bytes
            sequence.choice.loaded.holds += 1
        sequence.used_s = self._clock_s()
        self._sequences.move_to_end(key)
        return sequence

    def advance(self, sequence: Sequence, results: Results, is_end: bool) -> Results:
        """Keep the state of a run that has ended well; return the results without it."""
        pairs = sequence.choice.loaded.plan.state
        outputs = {pair.output for pair in pairs}
        if not is_end:
            self._keep(sequence, {pair.input: results[pair.output] for pair in pairs})
        return {name: tensor for name, tensor in results.items() if name not in outputs}

    def leave(self, sequence: Sequence, is_end: bool) -> None:
        """Hear that a request of the sequence has ended, the last one if `is_end`."""
        sequence.used_s = self._clock_s()
        if is_end and self._sequences.get(sequence.key) is sequence:
            self._forget(sequence.key)

    def sweep(self) -> None:
        """Forget the sequences that were idle for too long."""
        oldest_s = self._clock_s() - self._settings.idle_s
        while self._sequences:
            key, sequence = next(iter(self._sequences.items()))
            if sequence.used_s > oldest_s or sequence.is_running:
                return
            self._forget(key)

    def end_of(self, loaded: LoadedVersion) -> None:
        """Forget the sequences of a version that is to go at once."""
        for key in [key for key, one in self._sequences.items() if one.choice.loaded is loaded]:
            self._forget(key)

    def _keep(self, sequence: Sequence, state: dict[str, NDArray[Any]]) -> None:
        size_bytes = _STATE_BYTES + sum(tensor.nbytes for tensor in state.values())
        if self._sequences.get(sequence.key) is sequence:
            self.bytes += size_bytes - sequence.size_bytes
        # Copies: a view would keep all of what the runtime gave, and an engine might use its buffer again.
        sequence.state = {name: tensor.copy() for name, tensor in state.items()}
        sequence.size_bytes = size_bytes
        while self.bytes > self._settings.max_bytes and self._evict(sequence):
            pass

    def _make_room(self) -> None:
        while len(self._sequences) >= self._settings.max_count:
            if not self._evict(None):
                raise UnavailableError(
                    f"{len(self._sequences)} sequences are busy, which is the most; end some, or raise "
                    "sequences.max_count."
                )

    def _evict(self, but: Sequence | None) -> bool:
        """Forget the sequence that was idle longest; say whether there was one."""
        for key, sequence in self._sequences.items():
            if sequence is not but and not sequence.is_running:
                self._forget(key)
                return True
        return False

    def _forget(self, key: Key) -> None:
        sequence = self._sequences.pop(key, None)
        if sequence is not None:
            self.bytes -= sequence.size_bytes
            loaded = sequence.choice.loaded
            loaded.holds -= 1
            self._release(loaded)


def _batch(given: Mapping[str, NDArray[Any]], specs: Mapping[str, TensorSpec]) -> int:
    """Return the size of the request's batch, by the first input whose first dimension is free; else 1."""
    for name, tensor in given.items():
        shape = specs[name].shape
        if shape and shape[0] == -1:
            return int(tensor.shape[0])
    return 1


def _zeros(spec: TensorSpec, batch: int) -> NDArray[Any]:
    """Return a state before the first run; its free dimensions are the batch."""
    shape = tuple(batch if size == -1 else size for size in spec.shape)
    if spec.datatype == "BYTES":
        return np.full(shape, b"", np.object_)
    return np.zeros(shape, NUMPY_NAME[spec.datatype])
