"""What the converter and its worker processes say to each other: one JSON document a line.

Arrays travel in files, named as in `converters.arrays`.
"""

from dataclasses import dataclass
from typing import Literal

import msgspec

from converters.prune.settings import PruneSettings
from converters.quantize.settings import QuantizeSettings
from converters.terms import Format, Origin
from edge_agent.documents.settings import EngineSettings
from edge_agent.documents.tensors import TensorSpec


class _Message(msgspec.Struct, frozen=True, tag_field="type", tag=str.lower, kw_only=True):
    pass


Method = Literal[
    "onnx-fp16",
    "onnx-dynamic",
    "onnx-int8-u8s8",
    "onnx-int8-s8s8",
    "tflite-fp16",
    "tflite-dynamic",
    "tflite-dynamic-tensorwise",
    "tflite-int8",
    "tflite-int16x8",
]


FailureKind = Literal["worker", "model", "missing", "conversion", "data", "request", "storage"]


class Quantize(_Message, frozen=True):
    """Write a quantized copy of `source` to `target`; `data` holds calibration samples if needed.

    `ranges` is a file that keeps what calibration found: read if it exists, else written.
    """

    method: Method
    source: str
    target: str
    data: str = ""
    ranges: str = ""
    settings: QuantizeSettings = QuantizeSettings()


class Rank(_Message, frozen=True):
    """Tell for each layer how far the answers are off when it alone is quantized; only static methods."""

    method: Method
    source: str
    data: str
    ranges: str = ""
    settings: QuantizeSettings = QuantizeSettings()


class Observe(_Message, frozen=True):
    """Tell what calibration shows of the activations that are hardest to quantize, and of the ends."""

    engine: str
    source: str
    data: str
    tensors: int
    settings: QuantizeSettings = QuantizeSettings()


class Load(_Message, frozen=True):
    """Load a model file with the engine of that name."""

    engine: str
    path: str
    settings: EngineSettings


class Run(_Message, frozen=True):
    """Run every sample of the file `inputs` once and write the answers to the file `outputs`.

    `backwards` takes the samples in reverse order, which shows whether an answer depends on earlier calls.
    """

    inputs: str
    outputs: str
    samples: int
    backwards: bool = False


class Measure(_Message, frozen=True):
    """Time runs of the first sample of the file `inputs` for about `seconds`; at least three."""

    inputs: str
    seconds: float


class Export(_Message, frozen=True):
    """Write a framework's model to files, by format; `data` holds an example batch by input name, if needed."""

    origin: Origin
    targets: dict[Format, str]
    data: str = ""


class Prune(_Message, frozen=True):
    """Write a pruned and fine-tuned copy of a framework's model to files, by format.

    `data` holds arrays by input name, samples along axis 0, and the targets in `y`.
    """

    origin: Origin
    targets: dict[Format, str]
    data: str
    settings: PruneSettings


class InputNames(_Message, frozen=True):
    """Tell the names of a framework's model's inputs."""

    origin: Origin


class Named(_Message, frozen=True):
    """The names of the inputs, in order."""

    names: tuple[str, ...]


Ask = Quantize | Rank | Observe | Load | Run | Measure | Export | Prune | InputNames


class Done(_Message, frozen=True):
    """It worked."""


class Loaded(_Message, frozen=True):
    """The model's signature, and the runtime with its version that loaded it."""

    runtime: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class Measured(_Message, frozen=True):
    """Seconds of each timed run, and the resident memory that loading and running have added at their peak."""

    runs_s: tuple[float, ...]
    memory_bytes: int = 0


class Advanced(_Message, frozen=True):
    """Not an answer yet: the share of the work that is done, 0 to 1."""

    share: float


class Exported(_Message, frozen=True):
    """The files are written."""

    failures: dict[Format, str] = {}
    """Why a target could not be written, where another could."""


class Pruned(_Message, frozen=True):
    """The files of the pruned copy are written; sparsities are shares of the prunable weights or channels."""

    sparsity: float
    layers: dict[str, float]
    failures: dict[Format, str] = {}
    """Why a target could not be written, where another could."""


class Ranked(_Message, frozen=True):
    """Relative squared error of the answers, by layer in the graph's order."""

    losses: dict[str, float]


@dataclass(frozen=True, slots=True)
class Shown:
    """A tensor for the report: what calibration showed, and the range that was chosen."""

    name: str
    minimum: float
    maximum: float
    low: float
    high: float
    counts: tuple[int, ...]
    edges: tuple[float, ...]
    """One more than counts."""


class Observed(_Message, frozen=True):
    """Histograms, inputs and outputs first."""

    tensors: tuple[Shown, ...]


class Failed(_Message, frozen=True):
    """It did not work; `kind` names the error class that the converter raises."""

    kind: FailureKind
    message: str


Reply = Done | Loaded | Measured | Exported | Pruned | Named | Ranked | Observed | Advanced | Failed
