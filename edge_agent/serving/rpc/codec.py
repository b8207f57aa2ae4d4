"""Inference requests and answers as protocol buffers.

A request is described to `oip` as one with binary tensors, so that every check is the one that HTTP has.

Source: https://github.com/kserve/open-inference-protocol (inference_grpc); Triton Inference Server,
grpc_service.proto and protocol/extension_parameters.md.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from edge_agent.documents import binary_tensors
from edge_agent.documents.errors import RequestError
from edge_agent.documents.tensors import NUMPY_NAME
from edge_agent.serving import oip
from edge_agent.serving.calls import Answer, Signature
from edge_agent.serving.rpc.messages import (
    InferParameter,
    InferTensorContents,
    ModelInferRequest,
    ModelInferResponse,
)
from edge_agent.serving.shared_memory import RegionAccess

_CONTENTS: Final = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""The field of InferTensorContents for each datatype; FP16 and BF16 have none."""

_REGION: Final = "shared_memory_region"
_NO_CONTENT: Final = b""


def parameters_of(given: Mapping[str, InferParameter]) -> dict[str, Any]:
    """Return parameters as they would be in JSON; raises RequestError for one without a value."""
    parameters: dict[str, Any] = {}
    for name, parameter in given.items():
        kind = parameter.WhichOneof("parameter_choice")
        if kind is None:
            raise RequestError(f"The parameter '{name}' has no value.")
        parameters[name] = getattr(parameter, kind)
    return parameters


def unbound(request: ModelInferRequest, parameters: dict[str, Any], signature: Signature) -> oip.Unbound:
    """Return the request as one to a model with this signature; all outputs are wanted as bytes.

    Raises RequestError where the tensors' data are not where the protocol has them.
    """
    contents: list[bytes] = []
    inputs = list(_inputs(request, contents))
    wanted = [(output.name, parameters_of(output.parameters)) for output in request.outputs]
    outputs = wanted or [(name, {}) for name in signature.outputs]
    for _, described in outputs:
        described["binary_data"] = True
    # What lies in one piece is not copied.
    binary = contents[0] if len(contents) == 1 else b"".join(contents)
    return oip.described(request.id or None, parameters, inputs, outputs, binary)


def render(answer: Answer, memory: RegionAccess | None = None) -> ModelInferResponse:
    """Return the answer, its tensors in `raw_output_contents` whatever form the inputs had, or in `memory`."""
    response = ModelInferResponse(model_name=answer.model, model_version=answer.version)
    if answer.request.id is not None:
        response.id = answer.request.id
    for name, value in answer.parameters.items():
        response.parameters[name].string_param = value
    for name, delivery in answer.request.outputs.items():
        tensor, datatype = oip.delivered(answer, name, delivery)
        output = response.outputs.add(name=name, datatype=datatype, shape=tensor.shape)
        content = binary_tensors.encode(tensor, datatype)
        if delivery.region is None:
            response.raw_output_contents.append(content.tobytes())
            continue
        # Clients count on as many entries as there are outputs, in their order.
        response.raw_output_contents.append(b"")
        for key, place in oip.to_memory(delivery, content, memory).items():
            parameter = output.parameters[key]
            if isinstance(place, str):
                parameter.string_param = place
            else:
                parameter.int64_param = place
    return response


def _inputs(
    request: ModelInferRequest, contents: list[bytes]
) -> Iterator[tuple[str, str, list[int], dict[str, Any]]]:
    """Yield each input as `oip.described` takes it, and put its data at the end of `contents`."""
    raw = iter(request.raw_input_contents)
    is_raw = bool(request.raw_input_contents)
    for given in request.inputs:
        parameters = parameters_of(given.parameters)
        is_typed = given.HasField("contents") and bool(given.contents.ListFields())
        if is_typed and (is_raw or _REGION in parameters):
            raise RequestError(
                f"Input '{given.name}' has contents, and others or itself have data elsewhere; "
                "give all in raw_input_contents, or none."
            )
        if _REGION not in parameters:
            content = next(raw, None) if is_raw else _typed(given.name, given.datatype, given.contents)
            if content is None:
                raise RequestError(f"Input '{given.name}' has no entry in raw_input_contents.")
            parameters["binary_data_size"] = len(content)
            contents.append(content)
        yield given.name, given.datatype, list(given.shape), parameters
    if (unused := sum(1 for _ in raw)) > 0:
        raise RequestError(f"raw_input_contents has {unused} entries more than there are inputs.")


def _typed(name: str, datatype: str, contents: InferTensorContents) -> bytes:
    """Return the data of an input whose elements are in the field of its datatype."""
    if datatype not in NUMPY_NAME:
        # Refused where it is compared with the model's.
        return _NO_CONTENT
    field = _CONTENTS.get(datatype)
    if field is None:
        raise RequestError(f"Input '{name}' is {datatype}, which goes into raw_input_contents alone.")
    given = [descriptor.name for descriptor, _ in contents.ListFields()]
    if given != [field]:
        found = " and ".join(given) or "no data"
        raise RequestError(f"Input '{name}' is {datatype} and needs {field}, or raw data, but has {found}.")
    elements = getattr(contents, field)
    if datatype == "BYTES":
        return _lengths_and_contents(elements)
    if field not in ("int_contents", "uint_contents"):
        return np.fromiter(elements, NUMPY_NAME[datatype], len(elements)).tobytes()
    tensor, limits = np.fromiter(elements, np.int64, len(elements)), np.iinfo(NUMPY_NAME[datatype])
    if tensor.min() < limits.min or tensor.max() > limits.max:
        raise RequestError(f"Input '{name}' has an element that {datatype} has no room for.")
    return tensor.astype(NUMPY_NAME[datatype]).tobytes()


def _lengths_and_contents(elements: Sequence[bytes]) -> bytes:
    tensor = np.empty(len(elements), np.object_)
    tensor[:] = elements
    return binary_tensors.encode(tensor, "BYTES").tobytes()
