"""Small real models, and packages made from them without the converter."""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from converters.compress import compressed
from edge_agent.documents.manifest import (
    File,
    Golden,
    Limits,
    Manifest,
    Requirements,
    Source,
    Tensor,
    Tolerance,
    Variant,
    blob_path,
)


def affine_onnx(path: Path, factor: float, padding_bytes: int = 0, sparsity: float = 0.0) -> Path:
    """Write an ONNX model that computes y = factor * x on FP32 [-1, 3], at least `padding_bytes` large.

    `sparsity` is the share of the padding that is zero.
    """
    initializers = [helper.make_tensor("factor", TensorProto.FLOAT, [], [factor])]
    nodes = [helper.make_node("Mul", ["x", "factor"], ["y"])]
    if padding_bytes:
        # Random, so that no compression on the way makes it small; used, so that no optimizer drops it.
        noise = np.random.default_rng(int(factor * 1000)).normal(size=padding_bytes // 4).astype(np.float32)
        noise[: int(sparsity * noise.size)] = 0
        initializers.append(
            helper.make_tensor("noise", TensorProto.FLOAT, [noise.size], noise.tobytes(), raw=True)
        )
        initializers.append(helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]))
        nodes = [
            helper.make_node("ReduceSum", ["noise"], ["sum"], keepdims=0),
            helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
            helper.make_node("Mul", ["x", "factor"], ["scaled"]),
            helper.make_node("Add", ["scaled", "nothing"], ["y"]),
        ]
    graph = helper.make_graph(
        nodes,
        "affine",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


def package(
    folder: Path,
    model: Path,
    *,
    name: str,
    version: str,
    factor: float,
    engine: str = "onnx",
    run_limit_s: float = 30.0,
    alternatives: Mapping[str, Path] | None = None,
    packed: bool = False,
    memory_bytes: int | None = None,
) -> Path:
    """Package a model that computes `factor * x` on FP32 [-1, 3]; return the package's folder.

    `alternatives` are further variants, engine to file, after the first. `packed` compresses the model files.
    `memory_bytes` is what each variant is said to need.
    """
    golden = folder / "golden.npz"
    folder.mkdir(parents=True)
    arrays: dict[str, NDArray[Any]] = {}
    for index in range(2):
        x = np.arange(3, dtype=np.float32).reshape(1, 3) + index
        arrays |= {f"{index}/input/x": x, f"{index}/output/y": x * np.float32(factor)}
    np.savez(golden, **arrays)  # type: ignore[arg-type]
    files = [(engine, model), *(alternatives or {}).items()]
    manifest = Manifest(
        name=name,
        version=version,
        timestamp=datetime.now(UTC),
        source=Source(framework="onnx", sha256=hashlib.sha256(model.read_bytes()).hexdigest()),
        inputs=(Tensor(name="x", datatype="FP32", shape=(-1, 3)),),
        outputs=(Tensor(name="y", datatype="FP32", shape=(-1, 3)),),
        limits=Limits(run_s=run_limit_s),
        golden=Golden(file=_blob(folder, golden), samples=2),
        variants=tuple(
            Variant(
                engine=kind,
                precision="fp32",
                file=_packed_blob(folder, path) if packed else _blob(folder, path),
                requires=Requirements(memory_bytes=memory_bytes),
                tolerances={"y": Tolerance(atol=1e-4, rtol=1e-4)},
            )
            for kind, path in files
        ),
    )
    golden.unlink()
    (folder / "manifest.json").write_text(manifest.model_dump_json(indent=1))
    return folder


def _packed_blob(folder: Path, path: Path) -> File:
    target = folder / "packed"
    file = compressed(path, target)
    assert file is not None
    blob = folder / blob_path(file.sha256)
    blob.parent.mkdir(parents=True, exist_ok=True)
    target.rename(blob)
    return file


def _blob(folder: Path, path: Path) -> File:
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    target = folder / blob_path(digest)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    return File(sha256=digest, size_bytes=len(content))
