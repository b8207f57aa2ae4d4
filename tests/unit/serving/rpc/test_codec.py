import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from edge_agent.documents import binary_tensors
from edge_agent.documents.errors import RequestError
from edge_agent.documents.tensors import ITEM_SIZE_BYTES, NUMPY_NAME, TensorSpec
from edge_agent.serving import oip
from edge_agent.serving.calls import IN_BINARY, Answer, Delivery, InferRequest, Signature
from edge_agent.serving.rpc import codec
from edge_agent.serving.rpc.messages import ModelInferRequest, ModelInferResponse

TYPED = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def one(datatype="FP32", shape=(-1, 2)):
    return Signature({"x": TensorSpec("x", datatype, shape)}, {"y": TensorSpec("y", datatype, shape)})


def bind(request, signature):
    parameters = codec.parameters_of(request.parameters)
    return oip.bind(codec.unbound(request, parameters, signature), signature)


def described(array, datatype="FP32", name="x"):
    return {"name": name, "datatype": datatype, "shape": array.shape}


def raw_request(array, datatype="FP32", **changes):
    content = binary_tensors.encode(array, datatype).tobytes()
    return ModelInferRequest(inputs=[described(array, datatype)], raw_input_contents=[content], **changes)


def typed_request(array, datatype="FP32", field=None):
    contents = {field or TYPED[datatype]: array.ravel().tolist()}
    return ModelInferRequest(inputs=[described(array, datatype) | {"contents": contents}])


@st.composite
def tensors(draw):
    datatype = draw(st.sampled_from(sorted(TYPED)))
    shape = draw(npst.array_shapes(min_dims=1, max_dims=3, max_side=4))
    element = st.binary(max_size=5) if datatype == "BYTES" else npst.from_dtype(np.dtype(NUMPY_NAME[datatype]))
    count = math.prod(shape)
    array = np.empty(count, NUMPY_NAME[datatype])
    array[:] = draw(st.lists(element, min_size=count, max_size=count))
    return datatype, array.reshape(shape)


@given(tensors())
def test_raw_and_typed_contents_are_the_same(tensor):
    datatype, array = tensor
    signature = one(datatype, (-1,) * array.ndim)
    (raw,) = bind(raw_request(array, datatype), signature).inputs.values()
    (typed,) = bind(typed_request(array, datatype), signature).inputs.values()
    assert raw.shape == typed.shape == array.shape
    assert raw.dtype == typed.dtype == array.dtype
    as_bytes = [binary_tensors.encode(each, datatype).tobytes() for each in (raw, typed, array)]
    assert as_bytes[0] == as_bytes[1] == as_bytes[2]


@given(tensors())
def test_an_answer_is_read_as_it_was(tensor):
    datatype, array = tensor
    signature = one(datatype, (-1,) * array.ndim)
    request = bind(raw_request(array, datatype, id="seven"), signature)
    answer = Answer(request, "m", "3", signature, {"y": array}, {"arm": "b"})
    response = ModelInferResponse.FromString(codec.render(answer).SerializeToString())
    assert (response.model_name, response.model_version, response.id) == ("m", "3", "seven")
    assert response.parameters["arm"].string_param == "b"
    (output,), (content,) = response.outputs, response.raw_output_contents
    assert (output.name, output.datatype, tuple(output.shape)) == ("y", datatype, array.shape)
    assert not output.HasField("contents")
    assert content == binary_tensors.encode(array, datatype)


class Memory:
    """Takes what is written into regions."""

    def __init__(self):
        self.written = []

    def write(self, *what):
        self.written.append((*what[:3], bytes(what[3])))


def test_an_output_in_shared_memory_leaves_its_place_empty():
    x = np.array([[1, 2]], np.float32)
    signature = Signature(one().inputs, {name: TensorSpec(name, "FP32", (-1, 2)) for name in "yz"})
    outputs = {"y": Delivery(True, 0, "r", 4, 8), "z": IN_BINARY}
    request = InferRequest(None, {}, {"x": x}, outputs)
    memory = Memory()
    response = codec.render(Answer(request, "m", "3", signature, {"y": x, "z": x + 1}, {}), memory)
    assert memory.written == [("r", 4, 8, x.tobytes())]
    assert list(response.raw_output_contents) == [b"", (x + 1).tobytes()]
    assert response.outputs[0].parameters["shared_memory_region"].string_param == "r"


parameters = st.dictionaries(
    st.text(max_size=5),
    st.one_of(
        st.just({}),
        st.builds(dict, bool_param=st.booleans()),
        st.builds(dict, int64_param=st.integers(-(2**63), 2**63 - 1)),
        st.builds(dict, string_param=st.text(max_size=5)),
        st.builds(dict, double_param=st.floats()),
        st.builds(dict, uint64_param=st.integers(0, 2**64 - 1)),
    ),
    max_size=2,
)
contents = st.one_of(
    st.just({}),
    st.builds(dict, bool_contents=st.lists(st.booleans(), max_size=4)),
    st.builds(dict, int_contents=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4)),
    st.builds(dict, uint_contents=st.lists(st.integers(0, 2**32 - 1), max_size=4)),
    st.builds(dict, fp32_contents=st.lists(st.floats(width=32), max_size=4)),
    st.builds(dict, bytes_contents=st.lists(st.binary(max_size=3), max_size=4)),
)
inputs = st.builds(
    dict,
    name=st.sampled_from(["x", "z"]),
    datatype=st.sampled_from([*ITEM_SIZE_BYTES, "BYTES", "BF16", "FP8", ""]),
    shape=st.lists(st.sampled_from([1, 2, 0, -1, 3, 2**62]), max_size=3),
    parameters=parameters,
    contents=contents,
)
garbage = st.builds(
    ModelInferRequest,
    id=st.text(max_size=3),
    parameters=parameters,
    inputs=st.lists(inputs, max_size=3),
    outputs=st.lists(st.builds(dict, name=st.sampled_from(["y", "w"]), parameters=parameters), max_size=3),
    raw_input_contents=st.lists(st.binary(max_size=20), max_size=3),
)


@given(garbage, st.sampled_from([*ITEM_SIZE_BYTES, "BYTES"]))
def test_whatever_comes_is_bound_or_refused_in_one_sentence(request, datatype):
    try:
        bound = bind(request, one(datatype))
    except RequestError as error:
        assert str(error).endswith(".")  # noqa: PT017
    else:
        assert list(bound.inputs) == ["x"]
        assert list(bound.outputs) == ["y"]


X = np.array([[1, 2]], np.float32)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (ModelInferRequest(inputs=[described(X)]), "Input 'x' is FP32 and needs fp32_contents"),
        (typed_request(X, "FP32", "fp64_contents"), "but has fp64_contents."),
        (typed_request(np.array([[1, 256]]), "UINT8"), "Input 'x' has an element that UINT8 has no room for."),
        (typed_request(np.array([[1, -129]]), "INT8"), "Input 'x' has an element that INT8 has no room for."),
        (
            ModelInferRequest(inputs=[described(X) | {"contents": {"fp32_contents": [1]}}]),
            "'x' has 4 bytes of data, FP32 of shape [1, 2] needs 8.",
        ),
        (ModelInferRequest(inputs=[described(X, "FP16")]), "goes into raw_input_contents alone."),
        (
            ModelInferRequest(
                inputs=[described(X) | {"contents": {"fp32_contents": [1, 2]}}], raw_input_contents=[b""]
            ),
            "give all in raw_input_contents, or none.",
        ),
        (
            ModelInferRequest(inputs=[described(X)], raw_input_contents=[X.tobytes(), b"1", b"2"]),
            "raw_input_contents has 2 entries more than there are inputs.",
        ),
        (
            ModelInferRequest(inputs=[described(X), described(X, name="z")], raw_input_contents=[X.tobytes()]),
            "Input 'z' has no entry in raw_input_contents.",
        ),
        (raw_request(X, parameters={"unit": {}}), "The parameter 'unit' has no value."),
    ],
)
def test_data_that_are_not_where_they_belong_are_refused(request_, said):
    datatype = request_.inputs[0].datatype
    with pytest.raises(RequestError) as caught:
        bind(request_, one(datatype, (-1, -1)))
    assert said in str(caught.value)


def test_parameters_are_what_they_would_be_in_json():
    request = ModelInferRequest(
        parameters={
            "a": {"bool_param": True},
            "b": {"int64_param": -1},
            "c": {"string_param": "s"},
            "d": {"double_param": 0.5},
            "e": {"uint64_param": 2},
        }
    )
    found = codec.parameters_of(request.parameters)
    assert found == {"a": True, "b": -1, "c": "s", "d": 0.5, "e": 2}
    assert type(found["a"]) is bool


def test_what_lies_in_one_piece_is_not_copied():
    request = raw_request(X)
    unbound = codec.unbound(request, {}, one())
    (tensor,) = oip.bind(unbound, one()).inputs.values()
    assert np.shares_memory(tensor, np.frombuffer(unbound.binary, np.uint8))
