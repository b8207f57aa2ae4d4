"""A TFLite model as the quantizer takes it: its operators by name, and running it to see activations.

Runs in a worker process.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from converters.arrays import Array, Sample
from converters.errors import missing
from converters.formats import tflite_model
from converters.formats.tflite_schema import operator_name, tensor_name
from converters.quantize.layers import Operator
from converters.quantize.ranges import Activations

_COMPUTING: Final = frozenset({*tflite_model.COMPUTING, "EMBEDDING_LOOKUP"})


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model in its normal form."""

    content: bytes
    model: Any
    """The schema's `ModelT` of the content."""
    operators: tuple[Operator, ...]
    """By the name of their first output."""
    outputs: tuple[str, ...]
    arguments: dict[str, str]
    """By input tensor: what the signature calls it."""
    signature: str

    def calls(self, samples: Sequence[Sample]) -> list[dict[str, Array]]:
        """Return the samples as arguments of the signature."""
        return [{self.arguments[name]: array for name, array in sample.items()} for sample in samples]


def prepared(source: Path) -> Prepared:
    """Read a file and bring it into its normal form; raises ModelError."""
    model = tflite_model.read(source)
    content = tflite_model.normalised(model)
    return Prepared(
        content,
        model,
        operators(model),
        tuple(tflite_model.output_names(model)),
        tflite_model.signature_inputs(model),
        tflite_model.signature_key(model),
    )


def operators(model: Any) -> tuple[Operator, ...]:
    """Return the operators of the first subgraph of a model in its normal form."""
    graph = model.subgraphs[0]
    names = [tensor_name(tensor) for tensor in graph.tensors]
    found = []
    for operator in graph.operators:
        outputs = tuple(names[index] for index in operator.outputs)
        if outputs:
            inputs = tuple(names[index] for index in operator.inputs if index >= 0)
            found.append(Operator(outputs[0], inputs, outputs, operator_name(model, operator) in _COMPUTING))
    return tuple(found)


def interpreter(content: bytes) -> Any:
    """Return LiteRT's interpreter that keeps every tensor; raises ToolMissingError."""
    try:
        from ai_edge_litert import interpreter as litert
    except ImportError as error:
        raise missing("ai-edge-litert") from error
    return litert.Interpreter(
        model_content=content,
        num_threads=1,
        experimental_preserve_all_tensors=True,
        # Delegates would fuse what is looked at.
        experimental_op_resolver_type=litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )


def activations(ready: Prepared, samples: Sequence[Sample]) -> Activations:
    """Return what runs the model on the samples and yields the float tensors of its first subgraph."""
    running = interpreter(ready.content)
    names = dict.fromkeys([*ready.arguments, *(name for one in ready.operators for name in one.outputs)])
    indexes = {
        detail["name"]: int(detail["index"])
        for detail in running.get_tensor_details()
        if detail["name"] in names and detail["dtype"] == np.float32
    }

    def run() -> Iterable[dict[str, Array]]:
        for call in ready.calls(samples):
            running.reset_all_variables()
            running.get_signature_runner(ready.signature)(**call)
            # Some operators leave outputs that nobody reads without memory.
            yield {name: array for name in names if (array := _tensor(running, indexes.get(name))) is not None}

    return run


def answers(content: bytes, ready: Prepared, samples: Sequence[Sample]) -> list[dict[str, Array]]:
    """Run a model with this signature on the samples and return its outputs by the signature's names."""
    running = interpreter(content)
    found = []
    for call in ready.calls(samples):
        running.reset_all_variables()
        found.append(dict(running.get_signature_runner(ready.signature)(**call)))
    return found


def _tensor(running: Any, index: int | None) -> Array | None:
    if index is None:
        return None
    try:
        return np.asarray(running.get_tensor(index))
    except ValueError:
        return None
