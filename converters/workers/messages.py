"""What the converter and its worker processes say to each other: one JSON document a line.

Arrays travel in files, named as in `converters.arrays`.
"""

from typing import Literal

import msgspec

from edge_agent.documents.settings import EngineSettings
from edge_agent.documents.tensors import TensorSpec


class _Message(msgspec.Struct, frozen=True, tag_field="type", tag=str.lower, kw_only=True):
    pass


class Quantize(_Message, frozen=True):
    """Write a quantized copy of `source` to `target`; `data` holds calibration samples if needed."""

    method: Literal[
        "onnx-dynamic", "onnx-int8-u8s8", "onnx-int8-s8s8", "tflite-dynamic", "tflite-fp16", "tflite-int8"
    ]
    source: str
    target: str
    data: str = ""


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


Ask = Quantize | Load | Run | Measure


class Done(_Message, frozen=True):
    """It worked."""


class Loaded(_Message, frozen=True):
    """The model's signature, and the runtime with its version that loaded it."""

    runtime: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class Measured(_Message, frozen=True):
    """Seconds of each timed run."""

    runs_s: tuple[float, ...]


class Failed(_Message, frozen=True):
    """It did not work; `kind` names the error class that the converter raises."""

    kind: Literal["model", "missing", "conversion", "storage"]
    message: str


Reply = Done | Loaded | Measured | Failed
