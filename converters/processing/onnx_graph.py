"""Adds nodes to an ONNX graph without getting into the way of its own names."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from converters.formats.onnx_walk import graphs
from converters.processing.signature import Shape

OWN: Final = "model/"
"""Begins what the model's own tensors are called that had to give up their names."""


class OnnxGraph:
    """An ONNX model under change; what is added is kept apart until `finish` puts it in front and behind."""

    def __init__(self, onnx: Any, model: Any) -> None:
        self._onnx = onnx
        self.model = model
        self._taken = _names(model.graph)
        self._nodes: list[Any] = []
        self._front: list[Any] = []

    def node(
        self,
        operator: str,
        inputs: Sequence[str],
        name: str,
        *,
        shape: Sequence[Any] | None = None,
        output: str | None = None,
        **attributes: Any,
    ) -> str:
        """Add a node and return its output, which has the node's name unless `output` gives another.

        With the shape of a float output, -1 or a text where it is free, later steps know it too: shape
        inference cannot see through sizes that are computed.
        """
        name = self.unique(name)
        result = name if output is None else output
        self._nodes.append(self._onnx.helper.make_node(operator, inputs, [result], name=name, **attributes))
        if shape is not None:
            self.model.graph.value_info.append(
                self._onnx.helper.make_tensor_value_info(
                    result, self._onnx.TensorProto.FLOAT, [None if size == -1 else size for size in shape]
                )
            )
        return result

    def constant(self, name: str, array: NDArray[Any] | np.generic) -> str:
        """Add a constant tensor and return its name."""
        name = self.unique(name)
        self.model.graph.initializer.append(
            self._onnx.numpy_helper.from_array(np.asarray(array, order="C"), name)
        )
        return name

    def integers(self, name: str, *values: int) -> str:
        """Add an INT64 constant [values]."""
        return self.constant(name, np.array(values, np.int64))

    def unique(self, name: str) -> str:
        """Return the name, with a number where the model or something added has it already."""
        candidate, number = name, 2
        while candidate in self._taken:
            candidate, number = f"{name}_{number}", number + 1
        self._taken.add(candidate)
        return candidate

    def make_free(self, name: str) -> None:
        """Take a name away from an inner tensor of the model, if one has it."""
        if name in self._taken:
            self._rename(name, self.unique(OWN + name))
        self._taken.add(name)

    def put_in_front(self, old: str, new: str) -> None:
        """Let the model's own nodes read another tensor; what was added so far goes in front of them."""
        for graph in graphs(self.model.graph):
            for node in graph.node:
                _replace(node.input, old, new)
        self._front += self._nodes
        self._nodes = []

    def set_aside(self, output: str) -> str:
        """Give the tensor behind an output another name and return it; the output is then to be filled."""
        name = self.unique(OWN + output)
        declared = [one for one in self.model.graph.output if one.name == output]
        self._rename(output, name)
        for one in declared:
            known = self.model.graph.value_info.add()
            known.CopyFrom(one)
            one.name = output
        return name

    def finish(self) -> None:
        """Put the added nodes into the graph."""
        graph = self.model.graph
        nodes = [*self._front, *graph.node, *self._nodes]
        del graph.node[:]
        graph.node.extend(nodes)

    def _rename(self, old: str, new: str) -> None:
        for graph in graphs(self.model.graph):
            for node in graph.node:
                _replace(node.input, old, new)
                _replace(node.output, old, new)
            for entry in (*graph.value_info, *graph.output, *graph.initializer):
                if entry.name == old:
                    entry.name = new
            for annotation in graph.quantization_annotation:
                if annotation.tensor_name == old:
                    annotation.tensor_name = new


def batch_and(batch: str | int | None, shape: Shape) -> list[Any]:
    """Return a shape with the batch as the model has it, a number, a name or None, in the first place."""
    return [batch, *(None if size == -1 else size for size in shape[1:])]


def _names(graph: Any) -> set[str]:
    names: set[str] = set()
    for one in graphs(graph):
        for node in one.node:
            names.update((node.name, *node.input, *node.output))
        names.update(entry.name for entry in (*one.input, *one.output, *one.initializer, *one.value_info))
        names.update(entry.values.name for entry in one.sparse_initializer)
    return names


def _replace(names: Any, old: str, new: str) -> None:
    for position, name in enumerate(names):
        if name == old:
            names[position] = new
