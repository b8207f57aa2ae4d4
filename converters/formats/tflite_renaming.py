"""Names in exported TFLite files: clean ones for inputs and outputs, inner ones the same in every process.

TensorFlow numbers functions and resources with counters that live as long as the process; two exports of one
model would differ by them.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from converters.errors import ConversionError
from converters.formats import tflite_model
from converters.formats.names import unused

_COUNTED: Final = re.compile(
    r"_frozen_\d+|(?<=_cond)_\d+|(?<=_body)_\d+|_inference_\w*?_\d+|(?<=embedding_lookup)/\d+|^\d+$"
)

Ports = Sequence[tuple[int, str]]
"""Tensors of the first graph, by index, with their new names."""


def renamed(model: Any, inputs: Ports, outputs: Ports, inner: Callable[[str], str]) -> bytes:
    """Return the file of a `ModelT` with other names and another order of inputs and outputs.

    The file gets one signature, `serving_default`, with the new names. Inner tensors get names of their own,
    since runtimes look tensors up by name: what `inner` makes of theirs. Raises ConversionError if one tensor
    is to have two names.
    """
    graph = model.subgraphs[0]
    graph.inputs = [index for index, _ in inputs]
    graph.outputs = [index for index, _ in outputs]
    named: dict[int, str] = {}
    for index, name in (*inputs, *outputs):
        if named.setdefault(index, name) != name:
            raise ConversionError(
                f"'{name}' is the same tensor as another input or output; leave it out of the model."
            )
    _name_tensors(model.subgraphs, named, inner)
    model.signatureDefs = []
    return tflite_model.normalised(model)


def without_counts(name: str) -> str:
    """Return a name of TensorFlow's without the numbers of functions and resources."""
    return _COUNTED.sub("", name)


def _name_tensors(graphs: Sequence[Any], named: Mapping[int, str], inner: Callable[[str], str]) -> None:
    """Name the first graph's inputs and outputs, by index, and bring all other names into a lasting form."""
    for number, graph in enumerate(graphs):
        graph.name = f"graph_{number}".encode() if number else b"main"
        ports = {} if number else named
        taken = set(ports.values())
        for index, tensor in enumerate(graph.tensors):
            plain = inner(bytes(tensor.name or b"").decode(errors="replace")) or "tensor"
            tensor.name = (ports[index] if index in ports else unused(plain, taken)).encode()
