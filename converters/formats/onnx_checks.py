"""What makes an ONNX file unfit for conversion: weights elsewhere, custom operators, weights that are NaN.

Source: https://onnx.ai/onnx/repo-docs/ExternalData.html and https://onnx.ai/onnx/repo-docs/IR.html.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from converters.formats.onnx_walk import graphs
from edge_agent.documents.errors import ModelError

STANDARD_DOMAINS: Final = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""Operator sets whose operators ONNX Runtime has kernels for."""

_SHORT: Final = 200
_NAMED: Final = 3
"""Custom operators that a message names."""


def nodes(model: Any) -> Iterator[Any]:
    """Yield the nodes of all graphs and of the model's own functions."""
    for graph in graphs(model.graph):
        yield from graph.node
    for function in model.functions:
        yield from function.node


def constants(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield every stored tensor with a name for messages: initializers, sparse ones, those in attributes."""
    for graph in graphs(model.graph):
        for tensor in graph.initializer:
            yield tensor.name, tensor
        for sparse in graph.sparse_initializer:
            yield sparse.values.name, sparse.values
    for node in nodes(model):
        name = node.output[0] if node.output else node.name
        for attribute in node.attribute:
            stored = [attribute.t] if attribute.HasField("t") else []
            for tensor in (*stored, *attribute.tensors):
                yield tensor.name or name, tensor


def printable(name: str) -> str:
    """Return a name from a file, which may be damaged, as a part of a sentence."""
    short = name if len(name) <= _SHORT else f"{name[:_SHORT]}…"
    return "".join(letter if letter.isprintable() else "?" for letter in short)


def check_external_data(path: Path, model: Any) -> None:
    """Raise ModelError if a tensor lies outside the file, wherever it says that it lies."""
    from onnx import TensorProto

    for name, tensor in constants(model):
        shown = printable(name)
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            raise ModelError(
                f"{path} keeps its weights in other files (external data, tensor '{shown}'), which cannot be "
                "packaged; save it as one file of less than 2 GB with onnx.save(model, path, "
                "save_as_external_data=False)."
            )


def check_custom_operators(path: Path, model: Any) -> None:
    """Raise ModelError with the names of operators that only a library of their own can run."""
    own = {(function.domain, function.name) for function in model.functions}
    found = sorted(
        {
            f"{node.domain}.{node.op_type}"
            for node in nodes(model)
            if node.domain not in STANDARD_DOMAINS and (node.domain, node.op_type) not in own
        }
    )
    if found:
        raise ModelError(
            f"{path} uses custom operators that no device has ({listed(found)}); export it with operators of "
            "the standard sets ai.onnx, ai.onnx.ml or com.microsoft."
        )


def check_weights(path: Path, model: Any) -> None:
    """Raise ModelError for a tensor that claims more than it holds, or holds NaN or infinity among numbers.

    Infinity beside zeros alone is a mask, as attention uses it, and stays.
    """
    from onnx import TensorProto, numpy_helper

    floats = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
    for name, tensor in constants(model):
        _check_claim(path, name, tensor)
        if tensor.data_type in floats:
            with np.errstate(invalid="ignore"):
                values = np.asarray(numpy_helper.to_array(tensor), np.float64)
            check_numbers(path, name, values)


def check_numbers(path: Path, name: str, values: Any) -> None:
    """Raise ModelError if an array of floats holds NaN, or infinity among numbers."""
    finite = np.isfinite(values)
    if finite.all():
        return
    is_mask = not np.isnan(values).any() and not np.any(values[finite])
    if not is_mask:
        raise ModelError(
            f"{path} has weights that are NaN or infinite (tensor '{printable(name)}'); train it again with a "
            "smaller learning rate or clipped gradients, and export a checkpoint whose loss is finite."
        )


def _check_claim(path: Path, name: str, tensor: Any) -> None:
    from onnx import helper

    if not tensor.HasField("raw_data"):
        return
    try:
        width = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except (KeyError, TypeError):
        return
    claimed = math.prod(tensor.dims) * width
    # Datatypes below a byte are packed.
    if width > 1 and len(tensor.raw_data) != claimed:
        raise ModelError(
            f"{path} is damaged: tensor '{printable(name)}' of shape {list(tensor.dims)} should have {claimed} "
            f"bytes and has {len(tensor.raw_data)}; export it again."
        )


def listed(names: list[str]) -> str:
    """Return the first few names, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(printable, names[:_NAMED])) + more
