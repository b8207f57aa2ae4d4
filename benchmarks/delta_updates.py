"""What of a new version a device that has the old one need not fetch.

    pip install pyfastcdc==0.3.1            # for this alone
    scripts/fetch-benchmark-data
    python -m benchmarks.delta_updates

Each case is an old and a new file of the same model: its last layer fine-tuned, quantized again with other
calibration data, every weight trained on. For each it is measured what travels: the whole file (as Zstandard at
level 19 where that saves over 10 %, as packages have it); the chunks that the old file has not, cut by content
(FastCDC, 4 to 64 KiB on average, each compressed) or at fixed places, with the list of chunks; and a Zstandard
patch against the old file. The choice is explained in docs/decisions/0014-patches-not-chunks.md.
"""

import hashlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from benchmarks.converters.fetch import cached
from converters.compress import LEAST_SAVING, LEVEL
from edge_agent.store import packing

CHUNK_BYTES = (4096, 16_384, 65_536)
ENTRY_BYTES = 20
"""Of a chunk in the list of them: 16 bytes of its digest, 4 of its length."""
RNG = np.random.default_rng(1)
CALIBRATION_SAMPLES = 16

Change = Callable[[NDArray[Any]], NDArray[Any]]


@dataclass(frozen=True)
class Case:
    model: str
    change: str
    old: bytes
    new: bytes


def main() -> int:
    print(
        "| model | change | bytes | whole | " + " | ".join(f"chunks {size // 1024} K" for size in CHUNK_BYTES),
        end="",
    )
    print(" | fixed 16 K | patch | patch, s |")
    print("|---|---|---:|---:|" + "---:|" * (len(CHUNK_BYTES) + 3))
    with tempfile.TemporaryDirectory() as name:
        for case in cases(Path(name)):
            show(case)
    return 0


def show(case: Case) -> None:
    whole = packed(case.new)
    by_content = [travelling(case, lambda data, size=size: cut(data, size)) for size in CHUNK_BYTES]
    fixed = travelling(case, lambda data: pieces(data, 16_384))
    begun_s = time.perf_counter()
    patch = len(compress(case.new, case.old))
    took_s = time.perf_counter() - begun_s
    cells = [f"{value / whole:.3f}" for value in (*by_content, fixed, patch)]
    print(
        f"| {case.model} | {case.change} | {len(case.new):,} | {whole:,} | {' | '.join(cells)} | {took_s:.1f} |"
    )
    sys.stdout.flush()


# --- what travels -------------------------------------------------------------------------------------------


def packed(data: bytes) -> int:
    """Return the length that travels of a whole file."""
    small = len(compress(data))
    return small if small < (1 - LEAST_SAVING) * len(data) else len(data)


def travelling(case: Case, cutter: Callable[[bytes], Sequence[bytes]]) -> int:
    """Return the length of the list of chunks, and of those that are new, compressed one by one."""
    known = {hashlib.sha256(chunk).digest() for chunk in cutter(case.old)}
    chunks = cutter(case.new)
    new = {digest: chunk for chunk in chunks if (digest := hashlib.sha256(chunk).digest()) not in known}
    return ENTRY_BYTES * len(chunks) + sum(min(len(compress(chunk)), len(chunk)) for chunk in new.values())


def cut(data: bytes, average_bytes: int) -> list[bytes]:
    from pyfastcdc import FastCDC

    cutter = FastCDC(average_bytes, min_size=average_bytes // 4, max_size=average_bytes * 4)
    return [bytes(chunk.data) for chunk in cutter.cut_buf(data)]


def pieces(data: bytes, size_bytes: int) -> list[bytes]:
    return [data[start : start + size_bytes] for start in range(0, len(data), size_bytes)]


def compress(data: bytes, prefix: bytes = b"") -> bytes:
    if prefix:
        return packing.make_patch(data, prefix, LEVEL)
    zstd: Any = packing.library()
    return bytes(zstd.compress(data, options={zstd.CompressionParameter.compression_level: LEVEL}))


# --- the cases ----------------------------------------------------------------------------------------------


def cases(folder: Path) -> Iterator[Case]:
    for name, file in (
        ("Magika", "model.onnx"),
        ("PP-OCR recognition", "ch_PP-OCRv4_rec_infer.onnx"),
        ("PP-OCR direction", "ch_ppocr_mobile_v2.0_cls_infer.onnx"),
    ):
        yield from cases_of(name, modern(onnx.load(cached(file))), folder)


def cases_of(name: str, model: onnx.ModelProto, folder: Path) -> Iterator[Case]:
    tuned = changed(model, last_layer(model), trained_on)
    matrices = [name for name in weights(model) if len(tensors(model)[name].dims) > 1]
    trained = changed(model, matrices, trained_on)
    yield Case(name, "fp32, last layer fine-tuned", model.SerializeToString(), tuned.SerializeToString())
    eight = quantized(model, folder, 0)
    yield Case(f"{name}, int8", "last layer fine-tuned", eight, quantized(tuned, folder, 0))
    yield Case(f"{name}, int8", "other calibration data", eight, quantized(model, folder, 1))
    yield Case(f"{name}, int8", "fine-tuned, other data", eight, quantized(tuned, folder, 1))
    yield Case(name, "fp32, all layers trained on", model.SerializeToString(), trained.SerializeToString())
    yield Case(f"{name}, int8", "all trained on, other data", eight, quantized(trained, folder, 1))


def modern(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model at an opset that can be quantized per channel."""
    if model.opset_import[0].version >= 13:
        return model
    return onnx.version_converter.convert_version(model, 13)


def trained_on(array: NDArray[Any]) -> NDArray[Any]:
    """Return weights after some more training: each moved by about a hundredth of what they spread over."""
    moved = array + RNG.normal(size=array.shape) * array.std() * 0.01
    return moved.astype(array.dtype)


def tensors(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Return what a model holds as initializers or constants, by the name of the value."""
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = node.attribute[0].t
    return found


def weights(model: onnx.ModelProto) -> list[str]:
    return [
        name
        for name, tensor in tensors(model).items()
        if tensor.data_type == onnx.TensorProto.FLOAT and np.prod(tensor.dims) > 1
    ]


def last_layer(model: onnx.ModelProto) -> list[str]:
    """Return the weights and the bias of the last layer."""
    known = set(weights(model))
    last = max(
        index
        for index, node in enumerate(model.graph.node)
        if node.op_type in ("MatMul", "Gemm", "Conv") and known & set(node.input)
    )
    return [name for node in model.graph.node[last:] for name in node.input if name in known]


def changed(model: onnx.ModelProto, names: Sequence[str], change: Change) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    found = tensors(copy)
    for name in names:
        tensor = found[name]
        tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), tensor.name))
    return copy


def quantized(model: onnx.ModelProto, folder: Path, seed: int) -> bytes:
    """Return the model in static int8, calibrated with samples that the seed chooses."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    samples = Samples(model.graph.input[0], seed)
    source, prepared, target = folder / "source.onnx", folder / "prepared.onnx", folder / "int8.onnx"
    onnx.save(model, source)
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    quantize_static(
        prepared,
        target,
        samples,
        quant_format=QuantFormat.QDQ,
        per_channel=not samples.is_text,  # ONNX Runtime 1.32 fails at Magika per channel
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return target.read_bytes()


class Samples:
    """Calibration data: pieces of this repository's files for Magika, pictures of blots for the others."""

    def __init__(self, wanted: onnx.ValueInfoProto, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._name = wanted.name
        self.is_text = wanted.type.tensor_type.elem_type == onnx.TensorProto.INT32
        self._left = CALIBRATION_SAMPLES

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        if not self._left:
            return None
        self._left -= 1
        return {self._name: self._text() if self.is_text else self._picture()}

    def _text(self) -> NDArray[Any]:
        files = sorted(Path(__file__).parents[1].glob("docs/**/*.md"))
        content = files[int(self._rng.integers(len(files)))].read_bytes().ljust(2048)
        return np.frombuffer(content[:1024] + content[-1024:], np.uint8).astype(np.int32)[None]

    def _picture(self) -> NDArray[Any]:
        blots = self._rng.normal(size=(1, 3, 6, 24)).repeat(8, axis=2).repeat(8, axis=3)
        return np.clip(blots, -1, 1).astype(np.float32)


if __name__ == "__main__":
    sys.exit(main())
