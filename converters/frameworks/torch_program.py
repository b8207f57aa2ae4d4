"""A PyTorch model as a graph: tracing it, and the names of its inputs and outputs.

Source: https://docs.pytorch.org/docs/stable/export.html.
"""

import copy
import inspect
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from converters.arrays import Array
from converters.errors import ConversionError, said
from converters.frameworks.silence import silenced
from converters.frameworks.torch_files import import_torch

_QUANTIZED: Final = (
    "torch.ao.nn.quantized",
    "torch.ao.nn.qat",
    "torch.ao.nn.intrinsic.qat",
    "torch.ao.nn.intrinsic.quantized",
    "torch.ao.quantization",
    "torch.nn.quantized",
    "torchao.",
)
_QUANTIZED_OPERATOR: Final = re.compile(r"(^|\.)(quantized|quantized_decomposed|torchao)\.")
_DROPOUT_FLAG: Final = 2
_BATCH_NORM_FLAG: Final = 5
"""Positions of `train` among the arguments of aten's dropout and batch_norm."""


@dataclass(frozen=True, slots=True)
class Traced:
    """An exported program with the names that its inputs and outputs get in files."""

    program: Any
    module: Any
    """What the program was traced from, or a module that runs it: called in the same way."""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def input_names(model: Any) -> tuple[str, ...]:
    """Return the parameters that a module's forward needs, or a program's user inputs."""
    if is_program(model):
        return _program_inputs(model)
    needed, optional = _parameters(model)
    return needed or optional[:1]


def traced(model: Any, example: Mapping[str, Array], *, batch: bool) -> Traced:
    """Return the model as a program in inference mode, in float32, on the CPU; the model stays as it is.

    With `batch` axis 0 of all inputs is free where the model allows that; without, and where it does not, it is
    1. A program keeps the shapes that it was exported with. Raises ConversionError.
    """
    refuse_quantized(model)
    if is_program(model):
        _refuse_training(model)
        program, module = model, model.module()
        names = _program_inputs(model)
    else:
        names, tensors = _example_tensors(model, example)
        module = _inference_copy(model)
        program = _exported(module, dict(zip(names, tensors, strict=True)), batch)
    return Traced(program, module, names, _distinct(_output_names(program), names))


def is_program(model: Any) -> bool:
    """Say whether this is an ExportedProgram, not a module."""
    torch = import_torch()
    return isinstance(model, torch.export.ExportedProgram)


def refuse_quantized(model: Any) -> None:
    """Raise ConversionError for models that torch has quantized, or prepared for it."""
    for name in _program_operators(model) if is_program(model) else _module_kinds(model):
        if name.startswith(_QUANTIZED) or _QUANTIZED_OPERATOR.search(name):
            raise ConversionError(
                f"The model was quantized by PyTorch ({name}), which cannot be exported; give the float model "
                "and ask for the precision dynamic or int8 here."
            )


def unwrapped(model: Any) -> Any:
    """Return the module inside those that torch.compile and DataParallel put around it."""
    torch = import_torch()
    while True:
        if hasattr(model, "_orig_mod"):
            model = model._orig_mod
        elif isinstance(model, torch.nn.DataParallel | torch.nn.parallel.DistributedDataParallel):
            model = model.module
        else:
            return model


def tensor(array: Array) -> Any:
    """Return an array as a tensor; float64 and float16 become float32."""
    torch = import_torch()
    kept = np.ascontiguousarray(array, np.float32 if array.dtype.kind == "f" else array.dtype)
    return torch.from_numpy(kept.copy())


def _parameters(model: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    needed: list[str] = []
    optional: list[str] = []
    for parameter in inspect.signature(unwrapped(model).forward).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            if parameter.kind is parameter.VAR_KEYWORD:
                continue
            raise ConversionError(
                f"The model's forward takes {parameter}, which gives its inputs no names; name each input in "
                "forward, or give a program of torch.export."
            )
        (needed if parameter.default is parameter.empty else optional).append(parameter.name)
    if not needed and not optional:
        raise ConversionError("The model's forward takes no inputs; give a model that computes from data.")
    return tuple(needed), tuple(optional)


def _example_tensors(model: Any, example: Mapping[str, Array]) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    needed, optional = _parameters(model)
    lacking = [name for name in needed if name not in example]
    if lacking or not example:
        raise ConversionError(
            f"A PyTorch module does not tell the shape of its input {', '.join(lacking or optional[:1])}; give "
            "it with --shape NAME=1,3,48,320, or data with an array of that name that is not "
            "preprocessed, or a program of torch.export."
        )
    order = inspect.signature(unwrapped(model).forward).parameters
    names = tuple(name for name in order if name in example)
    return names, tuple(tensor(example[name]) for name in names)


def _inference_copy(model: Any) -> Any:
    try:
        return copy.deepcopy(unwrapped(model)).to("cpu").float().eval()
    except Exception as error:
        raise ConversionError(
            f"The model cannot be copied ({said(error)}); give it as a program of torch.export."
        ) from error


def _exported(model: Any, inputs: dict[str, Any], batch: bool) -> Any:
    torch = import_torch()
    two = all(value.ndim and value.shape[0] >= 2 for value in inputs.values())
    with silenced(), torch.no_grad():
        if batch and two:
            free = {name: {0: torch.export.Dim("batch")} for name in inputs}
            try:
                return torch.export.export(model, (), inputs, dynamic_shapes=free)
            except Exception:  # noqa: S110
                # Some models fix the batch; whether the model is to blame shows with a batch of one.
                pass
        single = {name: value[:1] if value.ndim else value for name, value in inputs.items()}
        try:
            return torch.export.export(model, (), single)
        except Exception as error:
            raise ConversionError(
                f"torch.export cannot trace the model ({said(error)}); it must take these inputs and not "
                "decide by the values of tensors which way to go."
            ) from error


def _program_inputs(program: Any) -> tuple[str, ...]:
    names = []
    for spec in program.graph_signature.input_specs:
        if spec.kind.name == "USER_INPUT":
            if not _is_tensor(spec):
                raise ConversionError(
                    f"The program's input {spec.arg.name} is not a tensor; export it again with tensors alone."
                )
            names.append(spec.arg.name)
    return tuple(names)


def _output_names(program: Any) -> list[str]:
    """Return the keys of a dictionary, else `output`, or `output_0` and so on."""
    specs = [spec for spec in program.graph_signature.output_specs if spec.kind.name == "USER_OUTPUT"]
    tree = program.call_spec.out_spec
    if tree.type in (dict, OrderedDict):
        return [str(key) for key, spec in zip(tree.context, specs, strict=True) if _is_tensor(spec)]
    count = sum(1 for spec in specs if _is_tensor(spec))
    if not count:
        raise ConversionError("The model returns no tensor; return one from forward.")
    return ["output"] if count == 1 else [f"output_{index}" for index in range(count)]


def _is_tensor(spec: Any) -> bool:
    return type(spec.arg).__name__ == "TensorArgument"


def _distinct(outputs: list[str], inputs: tuple[str, ...]) -> tuple[str, ...]:
    """Give outputs that are called as an input another name, since ONNX has one name space for both."""
    return tuple(f"{name}_out" if name in inputs else name for name in outputs)


def _module_kinds(model: Any) -> list[str]:
    modules = [type(module) for module in model.modules()]
    tensors = [type(value) for value in (*model.parameters(), *model.buffers())]
    inner = [type(value.data) for value in model.parameters()]
    return [f"{kind.__module__}.{kind.__name__}" for kind in (*modules, *tensors, *inner)]


def _program_operators(program: Any) -> list[str]:
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


def _refuse_training(program: Any) -> None:
    for node in program.graph.nodes:
        name = str(node.target)
        flag = (
            _DROPOUT_FLAG
            if name.startswith("aten.dropout.")
            else _BATCH_NORM_FLAG
            if name.startswith("aten.batch_norm.")
            else None
        )
        if flag is not None and len(node.args) > flag and node.args[flag] is True:
            raise ConversionError(
                "The program was exported in training mode; call model.eval() before torch.export.export."
            )
