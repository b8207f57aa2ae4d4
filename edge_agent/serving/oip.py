"""Inference requests and answers of the Open Inference Protocol v2, with its binary tensor data extension.

Sources: https://github.com/kserve/open-inference-protocol (inference_rest); Triton Inference Server,
protocol/extension_binary_data.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import msgspec
from numpy.typing import NDArray

from edge_agent.documents import binary_tensors
from edge_agent.documents.errors import RequestError
from edge_agent.documents.tensors import TensorSpec
from edge_agent.serving import json_tensors

HEADER_LENGTH: Final = "Inference-Header-Content-Length"

_MAX_DIMENSION: Final = 2**31 - 1
_MAX_HEAD_BYTES: Final = 4096
_MAX_KNOWN: Final = 64
_UNSUPPORTED: Final = ("shared_memory_region", "classification")


_K = TypeVar("_K")
_V = TypeVar("_V")


class _Input(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: msgspec.Raw = msgspec.Raw()
    parameters: dict[str, Any] = {}


class _Output(msgspec.Struct):
    name: str
    parameters: dict[str, Any] = {}


class _Infer(msgspec.Struct):
    inputs: list[_Input]
    id: str | None = None
    parameters: dict[str, Any] = {}
    outputs: list[_Output] | None = None


_DECODER: Final = msgspec.json.Decoder(_Infer)
_ENCODER: Final = msgspec.json.Encoder()


_Answers = dict[tuple[tuple[int, ...], ...], bytes]
"""The JSON of answers by the shapes of their outputs."""


class _Head(msgspec.Struct, frozen=True):
    """The JSON of a request that fits the model: what it asks for, and which binary data follow."""

    id: str | None
    parameters: dict[str, Any]
    in_json: dict[str, NDArray[Any]]
    in_binary: list[tuple[TensorSpec, tuple[int, ...], int]]
    """Specification, shape and size in bytes of each input whose data follow, in their order."""
    outputs: dict[str, bool]
    answers: _Answers | None
    """What such requests were answered before; None if this head is not kept."""


@dataclass(frozen=True, slots=True)
class Signature:
    """The inputs and outputs of a model, by name, in its order; and the request heads that came before.

    Apps send the same JSON again and again, before other binary data. To read and to check it takes a hundred
    microseconds when a run of the model has emptied the CPU's caches, to look it up ten.
    """

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    heads: dict[bytes, _Head] = field(default_factory=dict, repr=False, compare=False)


class InferRequest(msgspec.Struct, frozen=True, gc=False):
    """A request whose tensors fit the model: `outputs` says of each wanted output whether it goes as binary."""

    id: str | None
    parameters: dict[str, Any]
    inputs: dict[str, NDArray[Any]]
    outputs: dict[str, bool]
    answers: _Answers | None = None
    """The JSON of answers to requests that said the same, if those are kept."""


def parse(body: bytes, header_length: bytes | None, signature: Signature) -> InferRequest:
    """Read a request for a model with this signature.

    `header_length` is the value of the header Inference-Header-Content-Length: how many bytes of the body are
    JSON, the rest being binary data. Raises RequestError, with one sentence, for all that is not as it must be.
    """
    length = _json_length(body, header_length)
    json = body[:length]
    is_short = length <= _MAX_HEAD_BYTES
    head = signature.heads.get(json) if is_short else None
    if head is None:
        head = _read_head(json, signature)
        if head.answers is not None and is_short:
            _keep(signature.heads, json, head)
    inputs = head.in_json
    if head.in_binary or length < len(body):
        inputs = inputs | _binary_inputs(head.in_binary, memoryview(body)[length:])
    return InferRequest(head.id, head.parameters, inputs, head.outputs, head.answers)


def render(
    request: InferRequest,
    model: str,
    version: str,
    signature: Signature,
    results: Mapping[str, NDArray[Any]],
) -> tuple[tuple[bytes | memoryview, ...], int | None]:
    """Return the parts of the answer's body, and the length of its JSON if binary data follow.

    Raises RequestError when JSON was asked for and cannot carry a value.
    """
    shapes = tuple(results[name].shape for name in request.outputs)
    json = None if request.answers is None else request.answers.get(shapes)
    outputs: list[dict[str, Any]] = []
    blobs: list[memoryview] = []
    for name, is_binary in request.outputs.items():
        tensor, datatype = results[name], signature.outputs[name].datatype
        if is_binary:
            blobs.append(binary_tensors.encode(tensor, datatype))
        if json is None:
            output: dict[str, Any] = {"name": name, "datatype": datatype, "shape": tensor.shape}
            if is_binary:
                output["parameters"] = {"binary_data_size": blobs[-1].nbytes}
            else:
                output["data"] = json_tensors.encode(tensor, name)
            outputs.append(output)
    if json is None:
        answer = {"model_name": model, "model_version": version, "outputs": outputs}
        if request.id is not None:
            answer["id"] = request.id
        json = _ENCODER.encode(answer)
        if request.answers is not None:
            _keep(request.answers, shapes, json)
    return (json, *blobs), len(json) if blobs else None


def _keep(known: dict[_K, _V], key: _K, value: _V) -> None:
    """Remember a value; when there are too many, forget all the others, as those in use come back at once."""
    if len(known) >= _MAX_KNOWN:
        known.clear()
    known[key] = value


def _json_length(body: bytes, header_length: bytes | None) -> int:
    if header_length is None:
        return len(body)
    if not header_length.isdigit() or len(header_length) > 18 or int(header_length) > len(body):
        raise RequestError(
            f"{HEADER_LENGTH} must be a number of bytes that the body has, which is {len(body)}."
        )
    return int(header_length)


def _read_head(json: bytes, signature: Signature) -> _Head:
    try:
        infer = _DECODER.decode(json)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(f"The body is not an inference request: {str(error).rstrip('.')}.") from error
    in_json: dict[str, NDArray[Any]] = {}
    in_binary: list[tuple[TensorSpec, tuple[int, ...], int]] = []
    given_names: set[str] = set()
    for given in infer.inputs:
        spec = signature.inputs.get(given.name)
        if spec is None:
            known = _names(signature.inputs)
            raise RequestError(f"The model has no input '{given.name}'; its inputs are {known}.")
        if given.name in given_names:
            raise RequestError(f"Input '{given.name}' is given twice.")
        given_names.add(given.name)
        shape = _check_input(given, spec)
        size = _binary_size(given)
        if size is None:
            in_json[spec.name] = json_tensors.decode(given.data, spec, shape)
        else:
            in_binary.append((spec, shape, size))
    if missing := signature.inputs.keys() - given_names:
        raise RequestError(f"The input '{min(missing)}' is missing.")
    outputs = _outputs(infer, signature)
    repeats = infer.id is None and not in_json and _all_plain(outputs, signature)
    return _Head(infer.id, infer.parameters, in_json, in_binary, outputs, {} if repeats else None)


def _all_plain(outputs: Mapping[str, bool], signature: Signature) -> bool:
    """Say whether the JSON of an answer depends on the outputs' shapes alone."""
    return all(is_binary and signature.outputs[name].datatype != "BYTES" for name, is_binary in outputs.items())


def _binary_inputs(
    described: list[tuple[TensorSpec, tuple[int, ...], int]], binary: memoryview
) -> dict[str, NDArray[Any]]:
    tensors: dict[str, NDArray[Any]] = {}
    position = 0
    for spec, shape, size in described:
        content = binary[position : position + size]
        tensors[spec.name] = binary_tensors.decode(content, spec.name, spec.datatype, shape)
        position += size
    if position != len(binary):
        raise RequestError(f"The body has {len(binary)} bytes of binary data, its inputs describe {position}.")
    return tensors


def _check_input(given: _Input, spec: TensorSpec) -> tuple[int, ...]:
    if given.datatype != spec.datatype:
        raise RequestError(f"Input '{spec.name}' must be {spec.datatype}, not '{given.datatype}'.")
    shape = tuple(given.shape)
    # Runtimes differ in what they do to an empty tensor, up to a crash.
    if not spec.accepts(shape) or (shape and not 1 <= min(shape) <= max(shape) <= _MAX_DIMENSION):
        raise RequestError(
            f"Input '{spec.name}' must have shape {list(spec.shape)} with -1 for any size from 1, "
            f"not {list(shape)}."
        )
    if "shared_memory_region" in given.parameters:
        raise RequestError("Shared memory is not supported; send the tensors in the body.")
    return shape


def _binary_size(given: _Input) -> int | None:
    """Return the size of an input's binary data, or None if its data are in the JSON."""
    has_json = bool(memoryview(given.data).nbytes)
    if "binary_data_size" not in given.parameters:
        if not has_json:
            raise RequestError(f"Input '{given.name}' has no data; give data, or binary_data_size.")
        return None
    size = given.parameters["binary_data_size"]
    if type(size) is not int or size < 0 or has_json:
        raise RequestError(
            f"Input '{given.name}' must have either data, or a binary_data_size of 0 or more bytes."
        )
    return size


def _outputs(infer: _Infer, signature: Signature) -> dict[str, bool]:
    by_default = _flag(infer.parameters, "binary_data_output", False)
    wanted: dict[str, bool] = {}
    if not infer.outputs:
        wanted = dict.fromkeys(signature.outputs, by_default)
    for output in infer.outputs or ():
        if output.name not in signature.outputs:
            known = _names(signature.outputs)
            raise RequestError(f"The model has no output '{output.name}'; its outputs are {known}.")
        if output.name in wanted:
            raise RequestError(f"Output '{output.name}' is asked for twice.")
        if unsupported := [name for name in _UNSUPPORTED if name in output.parameters]:
            raise RequestError(f"The parameter {unsupported[0]} of output '{output.name}' is not supported.")
        wanted[output.name] = _flag(output.parameters, "binary_data", by_default)
    for name, is_binary in wanted.items():
        if signature.outputs[name].datatype == "FP16" and not is_binary:
            raise RequestError(f"Output '{name}' is FP16, which JSON has no form for; ask for binary_data.")
    return wanted


def _flag(parameters: Mapping[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise RequestError(f"The parameter {name} must be true or false.")
    return value


def _names(specs: Mapping[str, TensorSpec]) -> str:
    return ", ".join(f"'{name}'" for name in specs)
