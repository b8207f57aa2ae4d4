"""The manifest: the signed description of one version of one model.

It is the TUF target `models/<name>/<version>.json`. Its blobs (the model files and the golden samples) are not
targets; they lie at `blobs/sha256/<aa>/<digest>` and are trusted through the digest and length given here.
"""

from datetime import datetime
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from edge_agent.documents.tensors import Datatype

MANIFEST_SCHEMA = 1

ModelName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
"""A model's name: 1 to 63 of a-z, 0-9 and inner hyphens; also a level of an MQTT topic and a DNS label."""

Version = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}$")]
"""A version: 1 to 64 of letters, digits, `_ . + -`; the default is UTC `YYYYmmdd_HHMMSS`."""

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Precision = Literal["fp32", "fp16", "int8", "dynamic", "int16x8"]


class Document(BaseModel):
    """Base of the signed documents: frozen, and unknown fields of a known major are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


def _free_or_positive(size: int) -> int:
    if size != -1 and size < 1:
        raise ValueError("a dimension is -1 (free) or at least 1")
    return size


class Tensor(Document):
    """An input or output: OIP datatype, and shape with -1 for a free dimension."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    datatype: Datatype
    shape: tuple[Annotated[int, AfterValidator(_free_or_positive)], ...] = Field(max_length=16)


SizeBytes = Annotated[int, Field(ge=1, le=8 * 2**30)]


class File(Document):
    """A blob: sha256 and length in bytes of the bytes that the store serves, and how they are compressed.

    A device skips a variant whose compression it does not know. With `zstd` the blob is one Zstandard frame,
    and `content_sha256` and `content_size_bytes` describe what comes out of it.
    """

    sha256: Sha256
    size_bytes: SizeBytes
    compression: str = "none"
    content_sha256: Sha256 | None = None
    content_size_bytes: SizeBytes | None = None

    @model_validator(mode="after")
    def _content_is_described(self) -> Self:
        described = (self.content_sha256 is not None, self.content_size_bytes is not None)
        if self.compression == "zstd" and not all(described):
            raise ValueError("a zstd file needs content_sha256 and content_size_bytes")
        if self.compression == "none" and any(described):
            raise ValueError("content_sha256 and content_size_bytes are for compressed files")
        return self

    @property
    def kept_sha256(self) -> str:
        """The digest of the file as a device keeps and runs it: decompressed."""
        return self.content_sha256 or self.sha256

    @property
    def kept_size_bytes(self) -> int:
        """The length of the file as a device keeps and runs it."""
        return self.content_size_bytes or self.size_bytes


class Requirements(Document):
    """What a device must have to run a variant; an empty list or null asks for nothing."""

    architectures: tuple[str, ...] = ()
    """As `platform.machine()` names them: `x86_64`, `aarch64`, `armv7l`."""
    runtimes: tuple[str, ...] = ()
    """Runtimes on which the golden samples passed at conversion: `onnxruntime`, `ai-edge-litert`,
    `tflite-runtime`. A runtime that is not named got the variant wrong or was not tried."""
    execution_providers: tuple[str, ...] = ()
    memory_bytes: Annotated[int, Field(ge=0)] | None = None


class Tolerance(Document):
    """How far a golden output may be from the float model's: |got - want| <= atol + rtol * |want|."""

    atol: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    rtol: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


class Variant(Document):
    """One file that runs this version; a device takes the first that it can run and that passes its probe."""

    engine: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]{1,32}$")]
    precision: Precision
    file: File
    requires: Requirements = Requirements()
    tolerances: dict[str, Tolerance] = {}
    """By output name; an output that is not named must equal the golden one exactly."""
    metrics: dict[str, float] = {}
    """Measured at conversion, for example `accuracy`, `agreement`, `latency_ms`."""


class Golden(Document):
    """Golden samples: a blob in numpy's .npz format, no pickles.

    Arrays are named `<sample>/input/<name>` and `<sample>/output/<name>`, samples counted from 0; the outputs
    are those of the float model.
    """

    file: File
    samples: Annotated[int, Field(ge=1, le=1024)]


class Source(Document):
    """What the version was made from: the framework and the sha256 of the source model's bytes."""

    framework: str
    sha256: Sha256


class Limits(Document):
    """How long one run may take before it counts as a hang, in seconds; and how large a batch it takes."""

    run_s: Annotated[float, Field(gt=0, le=3600)] = 30.0
    max_batch: Annotated[int, Field(ge=1, le=65_536)] | None = None
    """Largest first dimension of one run. Set only where the first dimension of every input and output is a
    batch, whose rows have nothing to do with each other: then requests are run together, and large ones in
    slices."""


class State(Document):
    """A state of a streaming model: the run's `output` is the next run's `input`, which starts as zeros."""

    input: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    output: Annotated[str, StringConstraints(min_length=1, max_length=256)]


class Manifest(Document):
    """One version of one model."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    min_agent: str = "0.1"
    name: ModelName
    version: Version
    timestamp: datetime
    source: Source
    inputs: tuple[Tensor, ...] = Field(min_length=1, max_length=256)
    outputs: tuple[Tensor, ...] = Field(min_length=1, max_length=256)
    labels: tuple[str, ...] = ()
    """Class names in the order of the last dimension of the first output; empty if there are none."""
    metadata: dict[str, Any] = {}
    """Metrics of the float model, tool versions, recipe: for people and reports, never for decisions here."""
    limits: Limits = Limits()
    state: tuple[State, ...] = Field(default=(), max_length=64)
    golden: Golden | None = None
    variants: tuple[Variant, ...] = Field(min_length=1, max_length=64)

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True, serialize_by_alias=True)

    @model_validator(mode="after")
    def _names_are_consistent(self) -> Self:
        for kind, tensors in (("input", self.inputs), ("output", self.outputs)):
            names = [tensor.name for tensor in tensors]
            if len(set(names)) != len(names):
                raise ValueError(f"two {kind}s have the same name")
        outputs = {tensor.name for tensor in self.outputs}
        self._check_states()
        for variant in self.variants:
            if stray := set(variant.tolerances) - outputs:
                raise ValueError(f"a tolerance names an output that does not exist: {sorted(stray)[0]}")
        return self

    def _check_states(self) -> None:
        inputs = {tensor.name: tensor for tensor in self.inputs}
        outputs = {tensor.name: tensor for tensor in self.outputs}
        for end, known in (("input", inputs), ("output", outputs)):
            names = [getattr(state, end) for state in self.state]
            if len(set(names)) != len(names):
                raise ValueError(f"two states have the same {end}")
            if stray := set(names) - set(known):
                raise ValueError(f"a state names an {end} that does not exist: {min(stray)}")
        for state in self.state:
            before, after = inputs[state.input], outputs[state.output]
            if before.datatype != after.datatype or len(before.shape) != len(after.shape):
                raise ValueError(f"the state '{state.input}' differs from its output in datatype or rank")

    @property
    def target_path(self) -> str:
        """The TUF target path of this manifest."""
        return f"models/{self.name}/{self.version}.json"


PATCH_LIMIT_BYTES: Final = 32 * 2**20
"""The longest file that is patched: a device holds the old and the new one in memory meanwhile."""


def patch_path(sha256: str, old_sha256: str) -> str:
    """Return where a store may have the patch that makes one file, as it is run, from another.

    A Zstandard frame with the old file as its prefix (`zstd --patch-from`); unsigned, its result is signed.
    """
    return f"patches/{sha256[:2]}/{sha256}/{old_sha256}"


def blob_path(sha256: str) -> str:
    """Return where a blob lies in a store, relative to its base URL."""
    return f"blobs/sha256/{sha256[:2]}/{sha256}"
