"""From a TensorFlow function to ONNX and TFLite files: what Keras, legacy Keras and SavedModels have in common.

The function is traced with inputs `input_0`, ... and outputs `output_0`, ...; its own names are put on the
files afterwards, since both exporters rework names. Variables are frozen into constants first: given Keras 3
models as they are, TFLiteConverter leaves them as resource variables (TensorFlow 2.21), which no quantizer
understands.

Sources: https://ai.google.dev/edge/api/tflite/python/tf/lite/TFLiteConverter,
https://github.com/onnx/tensorflow-onnx.
"""

import gc
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from converters.errors import ConversionError, missing
from converters.formats import onnx_model, tflite_model, tflite_renaming
from converters.formats.names import distinct
from converters.formats.onnx_canonical import canonical
from converters.formats.tflite_schema import tensor_name
from converters.frameworks.silence import silenced
from converters.terms import Format

EXTRA: Final = "convert-keras"
OPSET: Final = 18
TFLITE_BATCH: Final = 1
"""A free batch makes TFLite graphs compute shapes while they run, which keeps delegates and quantizers off, and
recurrent layers cannot be converted with it at all."""

_DATATYPES: Final = frozenset({"float32", "int32", "int64", "uint8", "int8", "bool"})
_OPERATOR: Final = re.compile(r"'?tf\.(\w+)'? op|operation 'tf\.(\w+)'|^\s*tf\.(\w+)\(", re.MULTILINE)
_COLOURS: Final = re.compile(r"\x1b\[\d*m")
_SAID: Final = 200
"""Characters of a converter's message that an error repeats."""


@dataclass(frozen=True, slots=True)
class Port:
    """An input of a function."""

    name: str
    shape: tuple[int | None, ...]
    datatype: str
    """numpy's name."""


@dataclass(frozen=True, slots=True)
class Served:
    """A model as a function of tensors."""

    call: Callable[[list[Any]], list[Any]]
    """Takes the inputs and returns the outputs, both in order, as in inference."""
    inputs: tuple[Port, ...]
    outputs: tuple[str, ...]
    owner: Any
    """What keeps the variables alive."""


def tensorflow() -> Any:
    """Import TensorFlow silently; raises ToolMissingError."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with silenced():
        try:
            import tensorflow
        except ImportError as error:
            raise missing("tensorflow", EXTRA) from error
    return tensorflow


def export(served: Served, target_format: Format, target: Path) -> None:
    """Write the file; ONNX gets a free batch, TFLite a batch of one unless the model has one of its own.

    Raises ConversionError with the operator that the format has not, or ToolMissingError.
    """
    _check_inputs(served.inputs)
    outputs = distinct(served.outputs, [port.name for port in served.inputs])
    try:
        if target_format == "onnx":
            _write_onnx(served, outputs, target)
        else:
            _write_tflite(served, outputs, target)
    finally:
        with silenced():
            # TensorFlow complains while it deletes the functions of loops that were converted; not later on.
            gc.collect()


def sentence(error: BaseException) -> str:
    """Return the first line of a framework's message that says something, without stop, to end a sentence."""
    plain = _COLOURS.sub("", str(error))
    lines = [line.strip() for line in plain.splitlines() if line.strip(" ^")]
    # Keras puts the layer before what it says.
    lines = [line for line in lines if not line.startswith("Exception encountered when calling")] or lines
    return lines[0][:_SAID].rstrip(". :") if lines else type(error).__name__


def _check_inputs(inputs: Sequence[Port]) -> None:
    for port in inputs:
        if port.datatype not in _DATATYPES:
            raise ConversionError(
                f"Input '{port.name}' takes {port.datatype}, which cannot be converted; rebuild the model to "
                "take numbers of float32 or int32, and do the rest before it."
            )


def _write_onnx(served: Served, outputs: tuple[str, ...], target: Path) -> None:
    tf = tensorflow()
    with silenced():
        try:
            import tf2onnx
        except ImportError as error:
            raise missing("tf2onnx", EXTRA) from error
        # Its counter numbers nodes, and they are sorted by name; so each export counts from the same number.
        tf2onnx.utils.INTERNAL_NAME = 1
        try:
            model, _ = tf2onnx.convert.from_function(
                _traceable(tf, served), input_signature=_specs(tf, served, None), opset=OPSET
            )
        except Exception as error:
            raise _refused("ONNX", error) from error
    _check_onnx_operators(model)
    names = {f"input_{index}": port.name for index, port in enumerate(served.inputs)}
    kept = {entry.name for entry in model.graph.input}
    _check_kept([name for key, name in names.items() if key not in kept])
    canonical(model, names, {f"output_{index}": name for index, name in enumerate(outputs)})
    onnx_model.save(model, target)
    onnx_model.read(target)


def _write_tflite(served: Served, outputs: tuple[str, ...], target: Path) -> None:
    tf = tensorflow()
    with silenced():
        try:
            concrete = _traceable(tf, served).get_concrete_function(*_specs(tf, served, TFLITE_BATCH))
            frozen = _frozen(concrete)
            converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen], served.owner)
            converter.experimental_lower_to_saved_model = False
            content = converter.convert()
        except Exception as error:
            raise _refused("TFLite", error) from error
    inputs = {
        tensor.name.split(":")[0]: port.name for tensor, port in zip(frozen.inputs, served.inputs, strict=True)
    }
    renamed = {
        tensor.name.removesuffix(":0"): name for tensor, name in zip(frozen.outputs, outputs, strict=True)
    }
    target.write_bytes(_renamed(content, inputs, renamed))


def _renamed(content: bytes, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> bytes:
    """Give a TFLite file its names, from old tensor name to new, in that order."""
    model = tflite_model.read_content(content)
    graph = model.subgraphs[0]
    taken, given = (
        {tensor_name(graph.tensors[index]): int(index) for index in indexes}
        for indexes in (graph.inputs, graph.outputs)
    )
    _check_kept([new for old, new in inputs.items() if old not in taken])
    for old, new in outputs.items():
        if old not in given:
            raise ConversionError(
                f"Output '{new}' is an input or another output as it is, which TFLite cannot hold; leave it "
                "out of the model."
            )
    return tflite_renaming.renamed(
        model,
        [(taken[old], new) for old, new in inputs.items()],
        [(given[old], new) for old, new in outputs.items()],
        tflite_renaming.without_counts,
    )


def _traceable(tf: Any, served: Served) -> Any:
    def serve(*tensors: Any) -> dict[str, Any]:
        answers = served.call(list(tensors))
        return {f"output_{index}": tf.identity(answer) for index, answer in enumerate(answers)}

    return tf.function(serve, autograph=False)


def _specs(tf: Any, served: Served, batch: int | None) -> list[Any]:
    return [
        tf.TensorSpec(_with_batch(port.shape, batch), port.datatype, name=f"input_{index}")
        for index, port in enumerate(served.inputs)
    ]


def _with_batch(shape: tuple[int | None, ...], batch: int | None) -> tuple[int | None, ...]:
    if not shape or shape[0] is not None:
        return shape
    return (batch, *shape[1:])


def _frozen(concrete: Any) -> Any:
    """Return the concrete function with constants for its variables, and its calls inlined."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    return convert_variables_to_constants_v2(concrete, lower_control_flow=False)


def _check_onnx_operators(model: Any) -> None:
    """Raise ConversionError for an operator that tf2onnx left as TensorFlow's, since it knows no other."""
    from onnx import defs

    for name in onnx_model.operators(model):
        if not defs.has(name) and not defs.has(name, "ai.onnx.ml"):
            raise ConversionError(_unsupported("ONNX", [name]))


def _check_kept(lost: Sequence[str]) -> None:
    if lost:
        raise ConversionError(f"The model does not use its input '{lost[0]}'; rebuild it without that input.")


def _refused(what: str, error: Exception) -> ConversionError:
    operators = list(dict.fromkeys(next(filter(None, found)) for found in _OPERATOR.findall(str(error))))
    if any(name.startswith("TensorList") for name in operators):
        return ConversionError(
            f"The model has a recurrent layer or loop over a batch that is free, which {what} cannot hold; "
            "start from the .keras or .h5 file, or build the layer with unroll=True."
        )
    if operators:
        return ConversionError(_unsupported(what, operators))
    return ConversionError(
        f"The model cannot be converted to {what}: {sentence(error)}; change that part of it."
    )


def _unsupported(what: str, operators: Sequence[str]) -> str:
    kind = "operators" if len(operators) > 1 else "operator"
    return (
        f"{what} has no built-in counterpart of the {kind} {', '.join(operators)}; replace the layers that "
        "use it or convert to the other format."
    )
