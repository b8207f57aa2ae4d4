"""Writes a traced PyTorch model as ONNX (torch.onnx) and as TFLite (litert-torch).

Sources: https://docs.pytorch.org/docs/stable/onnx.html, https://github.com/google-ai-edge/litert-torch.
"""

import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from converters.arrays import Array
from converters.errors import ConversionError, missing, said
from converters.formats import onnx_canonical, onnx_editing, onnx_model, tflite_model, tflite_renaming
from converters.frameworks.silence import silenced
from converters.frameworks.torch_files import import_torch
from converters.frameworks.torch_program import Traced, tensor

OPSET: Final = 20
"""What torch writes by itself since 2.13, and onnxruntime has known since 1.17."""

_CACHE: Final = "TORCHINDUCTOR_CACHE_DIR"
_WRAPPER: Final = "Positional"
_OPERATOR: Final = re.compile(
    r"No ONNX function found for <OpOverload\(op='([\w.]+)'"
    r"|Lowering not found: ([\w.]+)"
    r"|call_function\[target=torch\.ops\.([\w.]+)\]"
)
"""How torch.onnx and litert-torch tell the operator that they fail at."""


@contextmanager
def without_cache() -> Iterator[None]:
    """Give torch's compiler, which makes a cache folder though nothing is compiled, one that goes away."""
    before = os.environ.get(_CACHE)
    with tempfile.TemporaryDirectory() as folder:
        os.environ[_CACHE] = folder
        try:
            yield
        finally:
            del os.environ[_CACHE]
            if before is not None:
                os.environ[_CACHE] = before


def write_onnx(model: Traced, target: Path) -> None:
    """Write one file without external data; equal models give equal bytes. Raises ConversionError."""
    torch = import_torch()
    with _naming_operators("ONNX"), silenced():
        made = torch.onnx.export(
            model.program,
            (),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=list(model.inputs),
            output_names=list(model.outputs),
        )
        proto = made.model_proto
    foreign = onnx_editing.foreign_operators(proto)
    if foreign:
        raise ConversionError(
            f"The model uses the operator {foreign[0]}, which devices do not have; replace it in the model."
        )
    onnx_canonical.clean(proto)
    free = [value.type.tensor_type.shape.dim[:1] for value in proto.graph.input]
    symbols = {dim.dim_param for dims in free for dim in dims if dim.dim_param}
    if len(symbols) == 1:
        onnx_editing.rename_dimension(proto, symbols.pop(), onnx_canonical.BATCH)
    try:
        onnx_model.save(proto, target)
    except ValueError as error:
        raise ConversionError(
            "The model is larger than 2 GB, which an ONNX file does not hold; use a smaller one."
        ) from error


def write_tflite(model: Traced, target: Path, example: Mapping[str, Array]) -> None:
    """Write a file for a batch of one; raises ConversionError."""
    torch, converter = import_torch(), _import_litert()
    tensors = _first_of_each(model, example)
    wide = any(value.dtype == torch.int64 for value in (*tensors, *_outputs(model)))
    with _naming_operators("TFLite"), silenced(), torch.no_grad():
        made = converter.convert(_positional(model), sample_args=tensors, enable_x64=wide)
        content = made.model_content()
    target.write_bytes(_renamed(content, model))


def _first_of_each(model: Traced, example: Mapping[str, Array]) -> tuple[Any, ...]:
    """Return a sample for each input in the shape that the program was traced with; a free batch is one."""
    torch = import_torch()
    values = {node.name: node.meta["val"] for node in model.program.graph.nodes if node.op == "placeholder"}
    tensors = []
    for name in model.inputs:
        shape = [size if isinstance(size, int) else None for size in values[name].shape]
        if shape and shape[0] is None:
            shape[0] = 1
        given = tensor(example[name]) if name in example else None
        if given is not None and given.ndim == len(shape):
            shape = [given.shape[axis] if size is None else size for axis, size in enumerate(shape)]
        if None in shape:
            raise ConversionError(
                f"The program's input {name} has a free dimension beside the batch, which TFLite does not take "
                "here; give data, or export the program with fixed shapes."
            )
        tensors.append(torch.zeros(shape, dtype=values[name].dtype))
    return tuple(tensors)


def _outputs(model: Traced) -> list[Any]:
    (last,) = (node for node in model.program.graph.nodes if node.op == "output")
    return [node.meta["val"] for node in last.all_input_nodes if hasattr(node.meta.get("val"), "dtype")]


def _positional(model: Traced) -> Any:
    """Return a module that takes the inputs in order and returns a tuple of the tensors that come out."""
    torch = import_torch()
    from torch.utils import _pytree

    structure = model.program.call_spec.in_spec

    base: Any = torch.nn.Module

    class Positional(base):  # type: ignore[misc]
        """Keeps litert-torch from naming and ordering nested inputs and outputs in its own way."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model.module
            # A program has no mode to set; this keeps litert-torch from warning.
            self.training = False

        def forward(self, *inputs: Any) -> tuple[Any, ...]:
            args, kwargs = _pytree.tree_unflatten(list(inputs), structure)
            leaves = _pytree.tree_leaves(self.model(*args, **kwargs))
            return tuple(leaf for leaf in leaves if isinstance(leaf, torch.Tensor))

    return Positional()


def _renamed(content: bytes, model: Traced) -> bytes:
    """Give the inputs and outputs of a TFLite file their names and order, and inner tensors their layers'."""
    flat = tflite_model.read_content(content)
    signature = flat.signatureDefs[0]
    inputs = _ports(signature.inputs, "args_", model.inputs)
    outputs = _ports(signature.outputs, "output_", model.outputs)
    return tflite_renaming.renamed(flat, inputs, outputs, _layers)


def _ports(entries: Any, prefix: str, names: tuple[str, ...]) -> tflite_renaming.Ports:
    """Return the tensor of each name; litert-torch numbers them in the order that they have in the program."""
    by_name = {bytes(entry.name).decode(): int(entry.tensorIndex) for entry in entries}
    numbered = [f"{prefix}{index}" for index in range(len(names))]
    if by_name.keys() != set(numbered):
        raise ConversionError(
            "litert-torch drops an input or output that the model does not use or gives twice; remove it from "
            "the model."
        )
    return [(by_name[number], name) for number, name in zip(numbered, names, strict=True)]


def _layers(name: str) -> str:
    """Call a tensor by the modules that compute it, `block.conv`, as PyTorch does; not by classes."""
    return ";".join(_layer(part) for part in name.split(";"))


def _layer(path: str) -> str:
    """Return `a.b` of `made.Positional/pkg.Net_model/pkg.Block_a/torch.nn.modules.conv.Conv2d_b`."""
    if f".{_WRAPPER}" not in path:
        return path
    parts = [part.rsplit(".", 1)[-1].lstrip("_").partition("_")[2] for part in path.split("/")]
    return ".".join(parts[2:]) or "model"


@contextmanager
def _naming_operators(target_format: str) -> Iterator[None]:
    """Turn what the libraries raise into a ConversionError that names the operator, where they tell it."""
    try:
        yield
    except ConversionError:
        raise
    except Exception as error:
        causes = _causes(error)
        reason = said(causes[-1])
        found = [match for cause in causes if (match := _OPERATOR.search(str(cause)))]
        if found:
            operator = next(group for group in found[-1].groups() if group).removesuffix(".default")
            # The reason says more where the operator is known but not with these arguments.
            why = f" ({reason})" if found[-1][3] else ""
            raise ConversionError(
                f"The operator {operator} cannot be converted to {target_format}{why}; replace it in the model."
            ) from error
        raise ConversionError(
            f"The model cannot be converted to {target_format} ({reason}); simplify that part of it."
        ) from error


def _causes(error: BaseException) -> list[BaseException]:
    """Return an error and what it was raised from, the first cause last."""
    causes = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    return causes


def _import_litert() -> Any:
    try:
        with silenced():
            import litert_torch
    except ImportError as error:
        raise missing("litert-torch", "convert-torch") from error
    return litert_torch
