"""What a model file or a package is: signature, operators, layers, memory, and what can run it here."""

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from converters import package
from converters.formats import layers, onnx_model, tflite_model
from converters.formats.layers import LayerSize
from converters.formats.sources import read_source
from converters.report.model import plain_tensor
from converters.terms import Progress
from converters.workers.trials import RUNTIMES, Bench
from edge_agent.documents.errors import EdgeAgentError, NotFoundError, RequestError
from edge_agent.documents.manifest import Manifest, Variant
from edge_agent.documents.tensors import TensorSpec


@dataclass(frozen=True, slots=True)
class Inspected:
    """A model file."""

    path: Path
    engine: str
    precision: str
    sha256: str
    size_bytes: int
    versions: Mapping[str, int]
    """Of the format, and for ONNX of the operator sets by domain."""
    operators: dict[str, int]
    """How many of each type, most frequent first."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    runtimes: dict[str, str]
    """By runtime: its version if it loads the model here, else the reason."""
    layers: tuple[LayerSize, ...]
    """In the order of the graph."""
    activation_bytes: int | None
    """The most that is alive at once; None where shapes are not known before a run."""

    @property
    def weight_bytes(self) -> int:
        """Bytes of all constants."""
        return sum(layer.weight_bytes for layer in self.layers)

    @property
    def memory_bytes(self) -> int | None:
        """An estimate of what a run needs: weights and activations, without the runtime's own buffers."""
        return None if self.activation_bytes is None else self.weight_bytes + self.activation_bytes

    @property
    def runs_on(self) -> tuple[str, ...]:
        """Names of the runtimes that load it here, the reference runtime first."""
        return tuple(name for name, found in self.runtimes.items() if is_version(name, found))

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "path": str(self.path),
            "engine": self.engine,
            "precision": self.precision,
            "sha256": self.sha256,
            "size_bytes": self.size_bytes,
            "versions": dict(self.versions),
            "operators": self.operators,
            "inputs": [plain_tensor(spec) for spec in self.inputs],
            "outputs": [plain_tensor(spec) for spec in self.outputs],
            "runtimes": self.runtimes,
            "parameters": sum(layer.parameters for layer in self.layers),
            "weight_bytes": self.weight_bytes,
            "activation_bytes": self.activation_bytes,
            "estimated_memory_bytes": self.memory_bytes,
            "layers": [asdict(layer) for layer in self.layers],
        }


@dataclass(frozen=True, slots=True)
class InspectedPackage:
    """A package, and what its files are."""

    folder: Path
    manifest: Manifest
    models: tuple[Inspected, ...]
    """The file of each variant, in the manifest's order."""

    def as_json(self) -> dict[str, Any]:
        """Return the manifest with `models`: the file of each of its variants."""
        content = self.manifest.model_dump(mode="json", by_alias=True)
        return {**content, "models": [model.as_json() for model in self.models]}


def inspect_model(path: Path, bench: Bench, progress: Progress = lambda step, share: None) -> Inspected:
    """Read a model file and load it in every runtime of its engine; raises like `read_source`."""
    source = read_source(path)
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    found: dict[str, str] = {}
    for index, runtime in enumerate(RUNTIMES[source.engine]):
        progress(f"load it in {runtime}", index / len(RUNTIMES[source.engine]))
        try:
            with bench.brief() as brief:
                loaded = brief.load(source.engine, runtime, path)
        except EdgeAgentError as error:
            found[runtime] = str(error)
            continue
        found[runtime] = loaded.runtime
        inputs, outputs = inputs or loaded.inputs, outputs or loaded.outputs
    format_module = onnx_model if source.engine == "onnx" else tflite_model
    return Inspected(
        path=path,
        engine=source.engine,
        precision=source.precision,
        sha256=source.sha256,
        size_bytes=source.size_bytes,
        versions=format_module.versions(source.parsed),
        operators=dict(source.operators.most_common()),
        inputs=inputs,
        outputs=outputs,
        runtimes=found,
        layers=tuple(layers.layer_sizes(source)),
        activation_bytes=layers.activation_bytes(source),
    )


def inspect_package(
    folder: Path,
    manifest: Manifest,
    bench: Bench,
    temporary: Path,
    progress: Progress = lambda step, share: None,
) -> InspectedPackage:
    """Inspect the file of every variant; compressed ones are unpacked in the folder `temporary`.

    Raises DocumentError for a blob that is missing or damaged.
    """
    models = []
    for index, one in enumerate(manifest.variants):
        progress(f"inspect {one.engine} {one.precision}", index / len(manifest.variants))
        path = package.plain_blob(folder, one.file, temporary / one.file.sha256)
        models.append(inspect_model(path, bench))
    return InspectedPackage(folder, manifest, tuple(models))


def find_package(path: Path) -> tuple[Path, Manifest] | None:
    """Return folder and manifest if the path is a package or its manifest, None if it is another file.

    Raises NotFoundError for a folder that is no package, DocumentError for a damaged manifest.
    """
    if path.name == package.MANIFEST and path.is_file():
        return path.parent, package.read_manifest(path.parent)
    if not path.is_dir():
        return None
    if not (path / package.MANIFEST).is_file():
        raise NotFoundError(
            f"{path} is no package: it has no {package.MANIFEST}; give a folder <name>/<version>."
        )
    return path, package.read_manifest(path)


def choose_variant(folder: Path, manifest: Manifest, precision: str | None) -> Variant:
    """Return the first variant, of the precision if one is given, that is for this host's architecture.

    Where all are for others it is the first of them. Raises RequestError when none has the precision.
    """
    fitting = [one for one in manifest.variants if precision in (None, one.precision)]
    if not fitting:
        known = ", ".join(dict.fromkeys(one.precision for one in manifest.variants))
        raise RequestError(f"{folder} has no {precision} variant; choose among {known}.")
    here = (
        one for one in fitting if platform.machine() in (one.requires.architectures or (platform.machine(),))
    )
    return next(here, fitting[0])


def is_version(runtime: str, found: str) -> bool:
    """Say whether what was found of a runtime is its version rather than why it does not run the model."""
    return found.startswith(f"{runtime} ") and len(found.split()) == 2
