"""Requests without JSON: their bodies are nothing but the content of the model's only input.

Source: Triton Inference Server, protocol/extension_binary_data.md, "Raw Binary Request".
"""

import math

import numpy as np

from edge_agent.documents import binary_tensors
from edge_agent.documents.errors import RequestError
from edge_agent.documents.tensors import ITEM_SIZE_BYTES, TensorSpec
from edge_agent.serving.calls import IN_BINARY, InferRequest, Signature


def bind(content: memoryview, signature: Signature) -> InferRequest:
    """Return the request whose only input has this content; its one free dimension is what fits.

    As nothing else is said of them, all outputs go as binary data. Raises RequestError for a model with several
    inputs, a shape that is not clear, or a content that does not fit it.
    """
    if len(signature.inputs) != 1:
        names = ", ".join(f"'{name}'" for name in signature.inputs)
        raise RequestError(f"A body without JSON is for models with one input, this one has {names}.")
    (spec,) = signature.inputs.values()
    if spec.datatype == "BYTES":
        tensor = np.empty(1, np.object_)
        tensor[0] = bytes(content)
        shape = tuple(max(size, 1) for size in spec.shape)
    else:
        shape = _fitting(spec, content.nbytes)
        tensor = binary_tensors.decode(content, spec.name, spec.datatype, shape)
    if math.prod(shape) != tensor.size or 0 in shape:
        raise RequestError(f"A body without JSON is one element, '{spec.name}' has shape {list(spec.shape)}.")
    outputs = dict.fromkeys(signature.outputs, IN_BINARY)
    return InferRequest(None, {}, {spec.name: tensor.reshape(shape)}, outputs)


def _fitting(spec: TensorSpec, size_bytes: int) -> tuple[int, ...]:
    """Return the shape of an input of this size: a free batch is 1, one other free dimension is what fits."""
    free = [index for index, size in enumerate(spec.shape) if size == -1]
    if len(free) > 1 and free[0] == 0:
        free = free[1:]
    if len(free) > 1:
        raise RequestError(f"The shape of '{spec.name}' cannot be told from its size; describe it in JSON.")
    shape = [max(size, 1) for size in spec.shape]
    if free:
        item_bytes = ITEM_SIZE_BYTES[spec.datatype]
        shape[free[0]] = max(size_bytes // (math.prod(shape) * item_bytes), 1)
    return tuple(shape)
