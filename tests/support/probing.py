"""Tries every variant of a package as a device does: in the probe child, on each runtime that is named."""

import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from converters.package import plain_blob, read_manifest
from edge_agent.documents.ipc import ProbeRequest, ProbeVerdict
from edge_agent.documents.manifest import Manifest, Variant, blob_path
from edge_agent.documents.plan import Limit, VersionPlan
from edge_agent.documents.settings import EngineSettings
from edge_agent.documents.tensors import TensorSpec

LIMIT_S = 60.0


def check(folder: Path) -> Manifest:
    """Check that every variant passes the probe wherever the manifest offers it; return the manifest."""
    manifest = read_manifest(folder)
    with tempfile.TemporaryDirectory() as place:
        for index, variant in enumerate(manifest.variants):
            model = plain_blob(folder, variant.file, Path(place, f"{index}"))
            assert variant.requires.runtimes
            for runtime in variant.requires.runtimes:
                verdict = _probe(folder, manifest, variant, model, runtime)
                label = f"{variant.engine} {variant.precision} on {runtime}"
                assert verdict.outcome == "passed", f"{label}: {verdict.reason}"
                assert verdict.runtime.split()[0] == runtime
    return manifest


def _probe(folder: Path, manifest: Manifest, variant: Variant, model: Path, runtime: str) -> ProbeVerdict:
    settings = EngineSettings() if variant.engine == "onnx" else EngineSettings(tflite_runtime=runtime)
    assert manifest.golden is not None
    plan = VersionPlan(
        model=manifest.name,
        version=manifest.version,
        engine=variant.engine,
        precision=variant.precision,
        sha256=variant.file.kept_sha256,
        path=str(model.absolute()),
        size_bytes=variant.file.kept_size_bytes,
        inputs=_specs(manifest.inputs),
        outputs=_specs(manifest.outputs),
        golden_path=str((folder / blob_path(manifest.golden.file.sha256)).absolute()),
        golden_samples=manifest.golden.samples,
        tolerances={name: Limit(one.atol, one.rtol) for name, one in variant.tolerances.items()},
    )
    done = subprocess.run(
        [sys.executable, "-m", "edge_agent.control.probe"],
        input=msgspec.json.encode(ProbeRequest(version=plan, engines=settings, cpu_limit_s=600)) + b"\n",
        capture_output=True,
        timeout=LIMIT_S,
    )
    assert done.stdout, done.stderr
    return msgspec.json.decode(done.stdout, type=ProbeVerdict)


def _specs(tensors: tuple) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(one.name, one.datatype, one.shape) for one in tensors)
