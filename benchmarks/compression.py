"""What Zstandard saves on models, and what unpacking costs a device.

    python -m benchmarks.compression

Measures Magika (ONNX, as it is, pruned to 80 %, and that with dynamic quantization), okay_nabu (TFLite, int8),
and 10 MB of random weights of which 80 % are zero, in float32 and as int8. The choice is explained in
docs/decisions/0007-artifacts-travel-as-zstandard.md.
"""

import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from converters.compress import compressed
from edge_agent.documents.manifest import File
from edge_agent.store import packing

LEVELS = (3, 9, 19)
SPARSITY = 0.8


def main() -> int:
    if sys.argv[1:2] == ["unpack"]:
        return unpack(Path(sys.argv[2]), File.model_validate_json(sys.argv[3]))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path in models(folder):
            for level in LEVELS:
                show(path, folder / "packed", level)
        weights = folder / "10 MB of float32, 80 % zero"
        file = compressed(weights, folder / "packed")
        assert file is not None
        command = [sys.executable, "-m", "benchmarks.compression", "unpack"]
        subprocess.run([*command, str(folder / "packed"), file.model_dump_json()], check=True)
    return 0


def models(folder: Path) -> Iterator[Path]:
    magika = next(package("magika").glob("models/standard_v3_3/model.onnx"))
    yield magika
    pruned = folder / "model, 80 % pruned.onnx"
    onnx.save(prune(onnx.load(magika)), pruned)
    yield pruned
    from onnxruntime.quantization import quantize_dynamic

    dynamic = folder / "model, 80 % pruned, dynamic.onnx"
    quantize_dynamic(pruned, dynamic, op_types_to_quantize=["MatMul", "Gemm"])
    yield dynamic
    yield package("pymicro_wakeword") / "models" / "okay_nabu.tflite"
    weights = sparse(np.random.default_rng(1).normal(size=10_000_000).astype(np.float32))
    eight_bits = np.round(weights * 127 / np.abs(weights).max()).astype(np.int8)
    for array in (weights[:2_500_000], eight_bits):
        path = folder / f"10 MB of {array.dtype}, 80 % zero"
        path.write_bytes(array.tobytes())
        yield path


def package(name: str) -> Path:
    found = importlib.util.find_spec(name)
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent


def prune(model: onnx.ModelProto) -> onnx.ModelProto:
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32 and array.size > 1000:
            tensor.CopyFrom(numpy_helper.from_array(sparse(array), tensor.name))
    return model


def sparse(array: NDArray[np.float32]) -> NDArray[np.float32]:
    size = np.abs(array)
    return np.where(size <= np.quantile(size, SPARSITY), np.float32(0), array)


def show(path: Path, target: Path, level: int) -> None:
    size_bytes = path.stat().st_size
    start_s = time.perf_counter()
    file = compressed(path, target, level)
    took_s = time.perf_counter() - start_s
    saved = "saves under 10 %" if file is None else f"{file.size_bytes / size_bytes:.3f} of it"
    print(f"{path.name:36} {size_bytes:>10,} B, level {level:2}: {saved}, {took_s:.2f} s")


def unpack(path: Path, file: File) -> int:
    """Measure in a process of its own, since peak memory never falls."""
    packing.library()
    before_kib = peak_kib()
    start_s = time.perf_counter()
    packing.check_packed(path, file)
    took_s = time.perf_counter() - start_s
    print(
        f"unpacking {file.kept_size_bytes:,} B: {1000 * took_s:.0f} ms with the digest, "
        f"{(peak_kib() - before_kib) / 1024:.1f} MiB more at the peak"
    )
    return 0


def peak_kib() -> int:
    # getrusage would tell the parent's peak, which a child inherits.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    sys.exit(main())
