"""Inference requests and answers of the Open Inference Protocol v2, with its binary tensor data extension.

Sources: https://github.com/kserve/open-inference-protocol (inference_rest); Triton Inference Server,
protocol/extension_binary_data.md.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec
from numpy.typing import NDArray

from edge_agent.documents import binary_tensors
from edge_agent.documents.errors import RequestError
from edge_agent.documents.tensors import ITEM_SIZE_BYTES, WITHOUT_JSON, TensorSpec
from edge_agent.serving import json_tensors, raw_requests
from edge_agent.serving.calls import IN_BINARY, IN_JSON, Answer, Delivery, InferRequest, Signature
from edge_agent.serving.classification import MAX_CLASSES, classes
from edge_agent.serving.parameters import flag, natural
from edge_agent.serving.shared_memory import RegionAccess

_MAX_DIMENSION: Final = 2**31 - 1
_RAW: Final = b"0"
_REGION: Final = "shared_memory_region"
_PLACE: Final = re.compile(r"\(byte (\d+)\)$")
_NO_STATE: Final[frozenset[str]] = frozenset()

Rendered = tuple[tuple[bytes | memoryview, ...], int | None]


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


class _LooseInput(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: msgspec.Raw = msgspec.Raw()
    parameters: dict[str, Any] | None = None


class _LooseOutput(msgspec.Struct):
    name: str
    parameters: dict[str, Any] | None = None


class _LooseInfer(msgspec.Struct):
    """A request as some libraries write it (MLServer's for one): null for what they do not give."""

    inputs: list[_LooseInput]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[_LooseOutput] | None = None


_NOTHING: Final = _Infer([])
_DECODER: Final = msgspec.json.Decoder(_Infer)
_LOOSE_DECODER: Final = msgspec.json.Decoder(_LooseInfer)
_ENCODER: Final = msgspec.json.Encoder()


class Unbound(msgspec.Struct, frozen=True, gc=False):
    """A request whose JSON has been read; what its tensors are is for the model's signature to say."""

    infer: _Infer
    binary: memoryview
    is_raw: bool = False
    """Whether the body is nothing but the content of the model's only input."""
    tensors: Mapping[str, NDArray[Any] | RequestError] | None = None
    """What large inputs in JSON are by their descriptions, where that is known; or why they are nothing."""

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters of the request as a whole."""
        return self.infer.parameters


def read(body: bytes, header_length: bytes | None) -> Unbound:
    """Read a request as far as that takes no model.

    `header_length` is the value of the header Inference-Header-Content-Length: how many bytes of the body are
    JSON, the rest being binary data; 0 says that all of it is the content of the model's only input. Raises
    RequestError, with one sentence, for all that is not as it must be.
    """
    if header_length == _RAW:
        return Unbound(_NOTHING, memoryview(body), is_raw=True)
    json, binary = _split(body, header_length)
    try:
        return Unbound(_DECODER.decode(json), binary)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        loose = _without_nulls(json) if isinstance(error, msgspec.ValidationError) else None
        if loose is None:
            raise RequestError(f"The body is not an inference request: {_fault(json, error)}.") from error
        return Unbound(loose, binary)


def _without_nulls(json: memoryview) -> _Infer | None:
    """Return a request that has null where nothing is given; None if that is not all that is wrong with it."""
    try:
        loose = _LOOSE_DECODER.decode(json)
    except msgspec.MsgspecError:
        return None
    inputs = [
        _Input(given.name, given.shape, given.datatype, given.data, given.parameters or {})
        for given in loose.inputs
    ]
    outputs = [_Output(output.name, output.parameters or {}) for output in loose.outputs or ()]
    return _Infer(inputs, loose.id, loose.parameters or {}, outputs)


def _fault(json: memoryview, error: Exception) -> str:
    """Return what is wrong with JSON that cannot be read; NaN, which some libraries write, is told as such."""
    message = str(error).rstrip(".")
    place = _PLACE.search(message)
    if place is not None:
        position = int(place[1])
        near = bytes(json[max(position - 2, 0) : position + 8])
        if b"NaN" in near or b"Inf" in near:
            return f"JSON has no NaN or infinity (byte {position}), send binary data instead"
    return message


def described(
    request_id: str | None,
    parameters: dict[str, Any],
    inputs: Iterable[tuple[str, str, list[int], dict[str, Any]]],
    outputs: Iterable[tuple[str, dict[str, Any]]],
    binary: bytes,
) -> Unbound:
    """Return a request that did not come as JSON.

    An input is its name, datatype, shape and parameters, of which `binary_data_size` says how many of the bytes
    that follow in `binary` are its data; an output is its name and parameters.
    """
    given = [_Input(name, shape, datatype, parameters=described) for name, datatype, shape, described in inputs]
    wanted = [_Output(name, described) for name, described in outputs]
    return Unbound(_Infer(given, request_id, parameters, wanted), memoryview(binary))


def bind(
    unbound: Unbound,
    signature: Signature,
    state_inputs: frozenset[str] = _NO_STATE,
    memory: RegionAccess | None = None,
) -> InferRequest:
    """Return the request to a model with this signature; raises RequestError where it does not fit.

    `state_inputs` are those that the caller must not give, because the agent has them; `memory` is the shared
    memory that the caller may use.
    """
    if unbound.is_raw:
        return raw_requests.bind(unbound.binary, signature)
    infer = unbound.infer
    return InferRequest(
        id=infer.id,
        parameters=infer.parameters,
        inputs=_inputs(unbound, signature, state_inputs, memory),
        outputs=_outputs(infer, signature, memory),
        is_cacheable=not _is_shared(infer),
    )


def render(
    answer: Answer, memory: RegionAccess | None = None, pause: Callable[[], None] | None = None
) -> Rendered:
    """Return the parts of the answer's body, and the length of its JSON if binary data follow.

    Outputs that are wanted in shared memory are written there; `pause` is called now and then in long JSON.
    Raises RequestError when JSON was asked for and cannot carry a value, or the memory has not enough room.
    """
    request = answer.request
    outputs: list[dict[str, Any]] = []
    blobs: list[memoryview] = []
    for name, delivery in request.outputs.items():
        tensor, datatype = delivered(answer, name, delivery)
        output: dict[str, Any] = {"name": name, "datatype": datatype, "shape": tensor.shape}
        if delivery.region is not None:
            # Triton says nothing more of it, and its C++ client takes parameters for those of binary data.
            to_memory(delivery, binary_tensors.encode(tensor, datatype), memory)
        elif delivery.is_binary:
            blobs.append(binary_tensors.encode(tensor, datatype))
            output["parameters"] = {"binary_data_size": blobs[-1].nbytes}
        else:
            output["data"] = json_tensors.encode(tensor, name, pause)
        outputs.append(output)
    described: dict[str, Any] = {
        "model_name": answer.model,
        "model_version": answer.version,
        "outputs": outputs,
        "parameters": answer.parameters,
    }
    if request.id is not None:
        described["id"] = request.id
    json = _ENCODER.encode(described)
    return (json, *blobs), len(json) if blobs else None


def _is_shared(infer: _Infer) -> bool:
    for given in infer.inputs:  # noqa: SIM110 - a generator takes four times as long
        if _REGION in given.parameters:
            return True
    return False


def delivered(answer: Answer, name: str, delivery: Delivery) -> tuple[NDArray[Any], str]:
    """Return an output as it was asked for, and its datatype: as it is, or its best classes as BYTES.

    Raises RequestError where it has no classes.
    """
    tensor, spec = answer.results[name], answer.signature.outputs[name]
    if not delivery.classes:
        return tensor, spec.datatype
    has_batch = len(spec.shape) > 1 and spec.shape[0] == -1
    return classes(tensor, spec, delivery.classes, answer.signature.labels, has_batch), "BYTES"


def to_memory(delivery: Delivery, content: memoryview, memory: RegionAccess | None) -> dict[str, Any]:
    """Write an output into shared memory, and return the parameters that say where it is."""
    assert delivery.region is not None
    _allowed(memory).write(delivery.region, delivery.offset, delivery.size_bytes, content)
    return {
        _REGION: delivery.region,
        "shared_memory_byte_size": content.nbytes,
        "shared_memory_offset": delivery.offset,
    }


def _split(body: bytes, header_length: bytes | None) -> tuple[memoryview, memoryview]:
    whole = memoryview(body)
    if header_length is None:
        return whole, whole[:0]
    if not header_length.isdigit() or len(header_length) > 18 or int(header_length) > len(body):
        raise RequestError(
            f"{binary_tensors.HEADER_LENGTH} must be a number of bytes that the body has, which is {len(body)}."
        )
    length = int(header_length)
    return whole[:length], whole[length:]


def _inputs(
    unbound: Unbound,
    signature: Signature,
    state_inputs: frozenset[str],
    memory: RegionAccess | None,
) -> dict[str, NDArray[Any]]:
    tensors: dict[str, NDArray[Any]] = {}
    position, binary = 0, unbound.binary
    for given in unbound.infer.inputs:
        spec = signature.inputs.get(given.name)
        if spec is None:
            names = _names(signature.inputs)
            raise RequestError(f"The model has no input '{given.name}'; its inputs are {names}.")
        if given.name in tensors:
            raise RequestError(f"Input '{given.name}' is given twice.")
        if given.name in state_inputs:
            raise RequestError(
                f"Input '{given.name}' is the sequence's state, which the agent keeps; leave it out."
            )
        shape = _check_input(given, spec)
        if _REGION in given.parameters:
            tensors[spec.name] = _from_memory(given, spec, shape, memory)
            continue
        size = _binary_size(given)
        if size is None:
            known = None if unbound.tensors is None else unbound.tensors.get(given.name)
            if isinstance(known, RequestError):
                raise known
            tensors[spec.name] = json_tensors.decode(given.data, spec, shape) if known is None else known
            continue
        content = binary[position : position + size]
        tensors[spec.name] = binary_tensors.decode(content, spec.name, spec.datatype, shape)
        position += size
    if len(tensors) + len(state_inputs) < len(signature.inputs):
        missing = min(signature.inputs.keys() - tensors.keys() - state_inputs)
        raise RequestError(f"The input '{missing}' is missing.")
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
    return shape


def _from_memory(
    given: _Input, spec: TensorSpec, shape: tuple[int, ...], memory: RegionAccess | None
) -> NDArray[Any]:
    """Return a copy of an input's content in shared memory; raises RequestError where it is none."""
    if memoryview(given.data).nbytes or "binary_data_size" in given.parameters:
        raise RequestError(f"Input '{spec.name}' must be either in shared memory or in the body.")
    name, offset, size_bytes = _place(given.parameters)
    if spec.datatype != "BYTES":
        # Before anything is copied: what a client claims must not cost that much memory.
        wanted = math.prod(shape) * ITEM_SIZE_BYTES[spec.datatype]
        if size_bytes != wanted:
            raise RequestError(
                f"'{spec.name}' has {size_bytes} bytes, {spec.datatype} of shape {list(shape)} needs {wanted}."
            )
    content = _allowed(memory).read(name, offset, size_bytes)
    return binary_tensors.decode(content.data, spec.name, spec.datatype, shape)


def _place(parameters: Mapping[str, Any]) -> tuple[str, int, int]:
    """Return region, offset and size of a tensor in shared memory; raises RequestError where they are none."""
    name = parameters[_REGION]
    if not isinstance(name, str):
        raise RequestError(f"The parameter {_REGION} must be the name of a region.")
    size_bytes = natural(parameters, "shared_memory_byte_size", 0)
    return name, natural(parameters, "shared_memory_offset", 0), size_bytes


def _allowed(memory: RegionAccess | None) -> RegionAccess:
    if memory is None:
        raise RequestError("Shared memory is not served here; send the tensors in the body.")
    return memory


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


def _outputs(infer: _Infer, signature: Signature, memory: RegionAccess | None) -> dict[str, Delivery]:
    by_default = flag(infer.parameters, "binary_data_output", False)
    wanted: dict[str, Delivery] = {}
    if not infer.outputs:
        wanted = dict.fromkeys(signature.shown, IN_BINARY if by_default else IN_JSON)
    for output in infer.outputs or ():
        if output.name not in signature.outputs:
            known = _names(signature.outputs)
            raise RequestError(f"The model has no output '{output.name}'; its outputs are {known}.")
        if output.name in wanted:
            raise RequestError(f"Output '{output.name}' is asked for twice.")
        wanted[output.name] = _delivery(output.parameters, by_default, memory)
    for name, delivery in wanted.items():
        datatype = signature.outputs[name].datatype
        if datatype in WITHOUT_JSON and not delivery.is_binary and not delivery.classes:
            raise RequestError(f"Output '{name}' is {datatype}, which JSON cannot carry; ask for binary_data.")
    return wanted


def _delivery(parameters: dict[str, Any], by_default: bool, memory: RegionAccess | None) -> Delivery:
    is_binary = flag(parameters, "binary_data", by_default)
    if not parameters or parameters.keys() <= {"binary_data"}:
        return IN_BINARY if is_binary else IN_JSON
    count = 0
    if "classification" in parameters:
        count = natural(parameters, "classification", 0)
        if not 1 <= count <= MAX_CLASSES:
            raise RequestError(f"The parameter classification must be 1 to {MAX_CLASSES}, not {count}.")
    if _REGION not in parameters:
        return Delivery(is_binary=is_binary, classes=count)
    name, offset, size_bytes = _place(parameters)
    _allowed(memory).check(name, offset, size_bytes)
    return Delivery(True, count, name, offset, size_bytes)


def _names(specs: Mapping[str, TensorSpec]) -> str:
    return ", ".join(f"'{name}'" for name in specs)
