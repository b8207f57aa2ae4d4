"""PyTorch: exported programs, modules made by a factory, live modules; into ONNX and TFLite.

See `converters.frameworks.base.Framework` for the functions' contracts.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converters.arrays import Array
from converters.errors import ConversionError
from converters.frameworks import torch_files, torch_formats, torch_program
from converters.frameworks.base import Pruned, Training
from converters.prune.settings import PruneSettings
from converters.terms import Advanced, Format, Origin
from edge_agent.documents.errors import ModelError


def load(origin: Origin) -> Any:
    """Return the `nn.Module` or `ExportedProgram` of a file or factory."""
    return torch_files.load(origin)


def input_names(model: Any) -> tuple[str, ...]:
    """Return the names of the parameters of forward that have no default, or a program's user inputs."""
    return torch_program.input_names(_checked(model))


def export(model: Any, target_format: Format, target: Path, example: Mapping[str, Array]) -> None:
    """Write ONNX with a free batch where the model allows that, or TFLite for a batch of one.

    Outputs are called by the keys of a dictionary, else `output`, or `output_0` and so on.
    """
    model = _checked(model)
    with torch_formats.without_cache():
        if target_format == "onnx":
            torch_formats.write_onnx(torch_program.traced(model, example, batch=True), target)
        else:
            torch_formats.write_tflite(torch_program.traced(model, example, batch=False), target, example)


def prune(model: Any, training: Training, settings: PruneSettings, advanced: Advanced) -> Pruned:
    """Return a pruned and fine-tuned copy of a module; a program cannot be trained."""
    from converters.prune import torch as pruning

    model = _checked(model)
    torch_program.refuse_quantized(model)
    if torch_program.is_program(model):
        raise ConversionError(
            "A program of torch.export cannot be fine-tuned, which pruning needs; give the module itself, as "
            "package.module:factory with its state dict."
        )
    return pruning.prune(torch_program.unwrapped(model), training, settings, advanced)


def _checked(model: Any) -> Any:
    torch = torch_files.import_torch()
    if isinstance(model, torch.jit.ScriptModule | torch.jit.ScriptFunction):
        raise ConversionError(
            "TorchScript models cannot be exported any more; give the module that the script was made of."
        )
    if not isinstance(model, torch.nn.Module | torch.export.ExportedProgram):
        raise ModelError(f"A {type(model).__name__} is not a PyTorch model; give an nn.Module.")
    return model
