"""Names in exported TFLite files: clean ones for inputs and outputs, inner ones the same in every process.

TensorFlow numbers functions and resources with counters that live as long as the process; two exports of one
model would differ by them.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from converters.errors import ConversionError
from converters.formats import tflite_model
from converters.formats.canonical import unused

_COUNTED: Final = re.compile(
    r"_frozen_\d+|(?<=_cond)_\d+|(?<=_body)_\d+|_inference_\w*?_\d+|(?<=embedding_lookup)/\d+"
)


def renamed_tflite(content: bytes, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> bytes:
    """Return a TFLite file with other names of inputs and outputs, from old tensor name to new, in that order.

    The file gets one signature, `serving_default`, with the new names. Inner tensors get names of their own,
    since runtimes look tensors up by name. Raises ConversionError if one tensor is to have two names.
    """
    model = tflite_model.read_content(content)
    graph = model.subgraphs[0]
    graph.inputs = [_position(graph, graph.inputs, old, new) for old, new in inputs.items()]
    graph.outputs = [_position(graph, graph.outputs, old, new) for old, new in outputs.items()]
    positions, names = [*graph.inputs, *graph.outputs], [*inputs.values(), *outputs.values()]
    named = dict(zip(positions, names, strict=True))
    if len(named) < len(names):
        double = next(name for index, name in zip(positions, names, strict=True) if named[index] != name)
        raise ConversionError(
            f"'{double}' is the same tensor as another input or output; leave it out of the model."
        )
    _name_tensors(model.subgraphs, named)
    model.signatureDefs = []
    return tflite_model.normalised(model)


def distinct(names: Sequence[str], taken: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the names, those that occur before or in `taken` with a number appended."""
    used = set(taken)
    return tuple(unused(name, used) for name in names)


def _name_tensors(graphs: Sequence[Any], named: Mapping[int, str]) -> None:
    """Name the first graph's inputs and outputs, by index, and bring all other names into a lasting form."""
    for number, graph in enumerate(graphs):
        graph.name = f"graph_{number}".encode() if number else b"main"
        ports = {} if number else named
        taken = set(ports.values())
        for index, tensor in enumerate(graph.tensors):
            inner = _COUNTED.sub("", bytes(tensor.name or b"").decode())
            tensor.name = (ports[index] if index in ports else unused(inner, taken)).encode()


def _position(graph: Any, indexes: Sequence[int], old: str, new: str) -> int:
    for index in indexes:
        if graph.tensors[index].name == old.encode():
            return int(index)
    raise ConversionError(f"The model does not use its input '{new}'; rebuild it without that input.")
