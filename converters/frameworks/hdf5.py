"""Keras models in HDF5 files (`.h5`), looked at before a Keras loads them.

Both Kerases keep a model's layers as JSON in the attribute `model_config`; either may run code for a Lambda.
"""

import json
from pathlib import Path
from typing import Any, Final

from converters.errors import missing
from converters.frameworks import keras_models
from edge_agent.documents.errors import ModelError

MAGIC: Final = b"\x89HDF\r\n\x1a\n"
_CODE: Final = ("Lambda", "__lambda__")
"""Classes that hold code: the layer, and the function in a layer."""


def starts_so(path: Path) -> bool:
    """Say whether a file begins as HDF5 does; raises ModelError when it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError as error:
        raise ModelError(f"Cannot read {path}: {error.strerror}; check the path.") from error


def check(path: Path, *, trusted: bool) -> None:
    """Raise ModelError unless a whole model is in the file, ConversionError for code that is not trusted."""
    config = _attribute(path, "model_config")
    if config is None:
        raise ModelError(
            f"{path} holds weights alone; build the model, load them with load_weights, and save it whole with "
            "model.save."
        )
    try:
        layers = json.loads(config)
    except (ValueError, TypeError, RecursionError) as error:
        raise ModelError(f"{path} describes its layers in no JSON; give a complete .h5 file.") from error
    if not trusted and has_code(layers):
        raise keras_models.lambda_refused(str(path))


def has_code(config: Any) -> bool:
    """Say whether a model's configuration has a Lambda layer, under whatever package it is registered."""
    pending = [config]
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            name = str(part.get("class_name", ""))
            if name.replace(">", ".").split(".")[-1].strip() in _CODE:
                return True
            pending += part.values()
        elif isinstance(part, list):
            pending += part
    return False


def _attribute(path: Path, name: str) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise missing("h5py", "convert-keras") from error
    try:
        with h5py.File(path, "r") as file:
            return file.attrs.get(name)
    except Exception as error:
        # h5py raises whatever the place of the damage leads to.
        raise ModelError(f"{path} is truncated or damaged; give a complete .h5 file.") from error
