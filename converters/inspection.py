"""What a model file or a package is: signature, operators, size, and what can run it here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters import package
from converters.formats.sources import read_source
from converters.workers.trials import RUNTIMES, Bench
from edge_agent.documents.errors import EdgeAgentError, NotFoundError
from edge_agent.documents.manifest import Manifest
from edge_agent.documents.tensors import TensorSpec


@dataclass(frozen=True, slots=True)
class Inspected:
    """A plain model file."""

    path: Path
    engine: str
    precision: str
    sha256: str
    size_bytes: int
    operators: dict[str, int]
    """How many of each type, most frequent first."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    runtimes: dict[str, str]
    """By runtime: its version if it loads the model here, else the reason."""

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "path": str(self.path),
            "engine": self.engine,
            "precision": self.precision,
            "sha256": self.sha256,
            "size_bytes": self.size_bytes,
            "operators": self.operators,
            "inputs": [_plain(spec) for spec in self.inputs],
            "outputs": [_plain(spec) for spec in self.outputs],
            "runtimes": self.runtimes,
        }


def inspect_model(path: Path, bench: Bench) -> Inspected:
    """Read a model file and load it in every runtime of its engine; raises like `read_source`."""
    source = read_source(path)
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    found: dict[str, str] = {}
    for runtime in RUNTIMES[source.engine]:
        try:
            loaded = bench.load(source.engine, runtime, path)
        except EdgeAgentError as error:
            found[runtime] = str(error)
            continue
        found[runtime] = loaded.runtime
        inputs, outputs = inputs or loaded.inputs, outputs or loaded.outputs
    return Inspected(
        path,
        source.engine,
        source.precision,
        source.sha256,
        source.size_bytes,
        dict(source.operators.most_common()),
        inputs,
        outputs,
        found,
    )


def find_manifest(path: Path) -> Manifest | None:
    """Return the manifest if the path is a package or its manifest, None if it is a file of another kind.

    Raises NotFoundError for a folder that is no package, DocumentError for a damaged manifest.
    """
    if path.name == package.MANIFEST and path.is_file():
        return package.read_manifest(path.parent)
    if not path.is_dir():
        return None
    if not (path / package.MANIFEST).is_file():
        raise NotFoundError(
            f"{path} is no package: it has no {package.MANIFEST}; give a folder <name>/<version>."
        )
    return package.read_manifest(path)


def _plain(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}
