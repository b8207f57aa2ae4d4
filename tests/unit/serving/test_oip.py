import json
import math
import struct

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from edge_agent.documents.errors import RequestError
from edge_agent.documents.tensors import DATATYPES, ITEM_SIZE_BYTES, NUMPY_NAME, WITHOUT_JSON, TensorSpec
from edge_agent.serving import oip
from edge_agent.serving.calls import IN_BINARY, Answer, InferRequest, Signature
from edge_agent.serving.calls import IN_JSON as IN_JSON_FORM

IN_JSON = [datatype for datatype in DATATYPES if datatype not in WITHOUT_JSON]


def parse(body: bytes, header_length: bytes | None, signature: Signature) -> InferRequest:
    return oip.bind(oip.read(body, header_length), signature)


def render(request, model, version, signature, results):
    return oip.render(Answer(request, model, version, signature, results, {}))


def signature(datatype="FP32", shape=(-1, 2)):
    return Signature(
        {"x": TensorSpec("x", datatype, shape)},
        {"y": TensorSpec("y", datatype, shape), "z": TensorSpec("z", "FP16", ())},
    )


def one(datatype="FP32", shape=(-1, 2)):
    return Signature({"x": TensorSpec("x", datatype, shape)}, {"y": TensorSpec("y", datatype, shape)})


def elements(datatype, *, in_json):
    if datatype == "BYTES":
        return st.text(max_size=5).map(str.encode) if in_json else st.binary(max_size=5)
    finite = {"allow_nan": not in_json, "allow_infinity": not in_json} if datatype.startswith("FP") else {}
    return npst.from_dtype(np.dtype(NUMPY_NAME[datatype]), **finite)


@st.composite
def tensors(draw, in_json):
    datatype = draw(st.sampled_from(IN_JSON if in_json else DATATYPES))
    shape = draw(npst.array_shapes(min_dims=0, max_dims=3, max_side=4))
    values = draw(
        st.lists(elements(datatype, in_json=in_json), min_size=math.prod(shape), max_size=math.prod(shape))
    )
    array = np.empty(math.prod(shape), NUMPY_NAME[datatype])
    array[:] = values
    return datatype, array.reshape(shape)


def plain(array):
    """The array as nested lists that JSON can hold."""
    if array.dtype == np.object_:
        return np.vectorize(bytes.decode, otypes=[object])(array).tolist() if array.size else array.tolist()
    return array.tolist()


def body(data=None, **changes):
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2] if data is None else data}
    tensor.update({name: value for name, value in changes.items() if name in ("name", "datatype", "shape")})
    request = {"inputs": [tensor]}
    request.update({name: value for name, value in changes.items() if name not in tensor})
    return json.dumps(request).encode()


def binary(array, *, size=None, shape=None, datatype="FP32", extra=b"", **changes):
    content = array.tobytes()
    tensor = {
        "name": "x",
        "datatype": datatype,
        "shape": list(array.shape) if shape is None else shape,
        "parameters": {"binary_data_size": len(content) if size is None else size},
    }
    head = json.dumps({"inputs": [tensor], **changes}).encode()
    return head + content + extra, str(len(head)).encode()


@given(tensors(in_json=True), st.booleans(), st.one_of(st.none(), st.text(max_size=4)))
def test_json_comes_back_as_it_went(case, flat, request_id):
    datatype, array = case
    dimensions = one(datatype, tuple(-1 for _ in array.shape))
    nested = plain(array.ravel() if flat or array.ndim == 0 else array)
    content = body(nested, datatype=datatype, shape=array.shape, id=request_id)
    parsed = parse(content, None, dimensions)
    assert parsed.id == request_id
    assert parsed.inputs["x"].dtype == array.dtype
    np.testing.assert_array_equal(parsed.inputs["x"], array)
    (rendered,), length = render(parsed, "m", "7", dimensions, {"y": parsed.inputs["x"]})
    assert length is None
    answer = json.loads(rendered)
    assert answer["model_name"] == "m"
    assert answer["model_version"] == "7"
    assert answer.get("id") == request_id
    again = parse(
        body(answer["outputs"][0]["data"], datatype=datatype, shape=answer["outputs"][0]["shape"]),
        None,
        dimensions,
    )
    np.testing.assert_array_equal(again.inputs["x"], array)


def encode_bytes(array):
    if array.dtype != np.object_:
        return array.tobytes()
    return b"".join(struct.pack("<I", len(item)) + item for item in array.flat)


@given(tensors(in_json=False), st.integers(0, 7))
def test_binary_comes_back_as_it_went(case, padding):
    datatype, array = case
    dimensions = one(datatype, tuple(-1 for _ in array.shape))
    content = encode_bytes(array)
    tensor = {
        "name": "x",
        "datatype": datatype,
        "shape": array.shape,
        "parameters": {"binary_data_size": len(content)},
    }
    head = (
        json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode() + b" " * padding
    )
    parsed = parse(head + content, str(len(head)).encode(), dimensions)
    given = parsed.inputs["x"]
    assert given.flags.aligned
    np.testing.assert_array_equal(given, array)
    parts, length = render(parsed, "m", "7", dimensions, {"y": given})
    whole = b"".join(parts)
    output = json.loads(whole[:length])["outputs"][0]
    assert output["parameters"] == {"binary_data_size": len(content)}
    assert whole[length:] == content


BAD_JSON = {
    "not json": (b"{", "not an inference request"),
    "empty": (b"", "not an inference request"),
    "not utf-8": (b'{"inputs": [{"name": "\xff"}]}', "not an inference request"),
    "not an object": (b"[1]", "Expected `object`"),
    "nothing asked": (b"{}", "missing required field `inputs`"),
    "deep": (b'{"inputs": ' + b"[" * 100_000, "not an inference request"),
    "deep data": (
        body().replace(b"[1, 2]}", b"[" * 500 + b"]" * 500 + b"}"),
        "flat list, or nested as its shape",
    ),
    "no inputs": (b'{"inputs": []}', "input 'x' is missing"),
    "name": (body(name="nope"), "no input 'nope'; its inputs are 'x'"),
    "datatype": (body(datatype="INT32"), "must be FP32, not 'INT32'"),
    "unknown datatype": (body(datatype="FLOAT"), "must be FP32, not 'FLOAT'"),
    "rank": (body(shape=[2]), r"must have shape \[-1, 2\].*not \[2\]"),
    "dimension": (body(shape=[1, 3]), r"not \[1, 3\]"),
    "negative": (body(shape=[-1, 2]), r"not \[-1, 2\]"),
    "zero": (body([], shape=[0, 2]), r"not \[0, 2\]"),
    "huge": (body(shape=[2**62, 2]), r"not \[4611686018427387904, 2\]"),
    "larger than its data": (body(shape=[10**9, 2]), r"its shape is given as \[1000000000, 2\]"),
    "too few": (body([1]), r"has shape \[1\]"),
    "too many": (body([1, 2, 3]), r"has shape \[3\]"),
    "nested otherwise": (body([[1], [2]]), r"has shape \[2, 1\]"),
    "ragged": (body([[1, 2], [3]], shape=[2, 2]), "rows of different lengths"),
    "text": (body(["a", "b"]), "cannot be FP32"),
    "number": (body(5), "flat list"),
    "object": (body({"a": 1}), "flat list"),
    "null": (body([None, 1]), "cannot be FP32"),
    "NaN": (body([math.nan, 1]), "not an inference request|cannot be FP32"),
    "infinity": (body([math.inf, 1]), "not an inference request|cannot be FP32"),
    "over FP32": (body([1e300, 1]), "too large for FP32"),
    "over FP64": (body().replace(b"[1, 2]}", b"[1e999, 2]}"), "not an inference request|cannot be FP32"),
    "no data": (body().replace(b', "data": [1, 2]', b""), "has no data"),
    "wrong type of shape": (body(shape=["a"]), "Expected `int`"),
    "twice": (json.dumps({"inputs": [json.loads(body())["inputs"][0]] * 2}).encode(), "given twice"),
    "unknown output": (body(outputs=[{"name": "w"}]), "no output 'w'; its outputs are 'y', 'z'"),
    "output twice": (body(outputs=[{"name": "y"}] * 2), "asked for twice"),
    "FP16 output": (body(outputs=[{"name": "z"}]), "'z' is FP16, which JSON cannot carry"),
    "FP16 output by default": (body(), "'z' is FP16"),
    "flag": (body(parameters={"binary_data_output": 1}), "binary_data_output must be true or false"),
    "output flag": (body(outputs=[{"name": "y", "parameters": {"binary_data": "yes"}}]), "binary_data must be"),
    "no classes": (body(outputs=[{"name": "y", "parameters": {"classification": 0}}]), "must be 1 to 65536"),
    "too many classes": (body(outputs=[{"name": "y", "parameters": {"classification": 10**6}}]), "1 to 65536"),
    "classes of text": (body(outputs=[{"name": "y", "parameters": {"classification": "3"}}]), "a whole number"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_JSON)
def test_bad_json_is_refused_in_one_sentence(case):
    content, message = BAD_JSON[case]
    with pytest.raises(RequestError, match=message) as caught:
        parse(content, None, signature())
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        ("UINT8", 256), ("UINT8", -1), ("INT8", 128), ("UINT16", 65536), ("INT16", -32769), ("UINT32", 2**32),
        ("INT32", 2**31), ("INT64", 2**63), ("INT64", -(2**63) - 1), ("UINT64", 2**64), ("UINT64", -1),
        ("INT32", 1.5), ("INT32", True), ("INT32", "1"), ("BOOL", 1), ("FP32", True), ("BYTES", 1),
        ("INT64", 10**30), ("UINT64", 10**30),
    ],
)  # fmt: skip
def test_an_element_that_is_none_of_its_datatype_is_refused(datatype, value):
    content = body([value, value], datatype=datatype)
    with pytest.raises(RequestError, match=f"cannot be {datatype}"):
        parse(content, None, one(datatype))


@pytest.mark.parametrize(
    ("datatype", "value"),
    [("UINT64", 2**64 - 1), ("INT64", -(2**63)), ("INT64", 2**63 - 1), ("FP64", 1e308), ("UINT8", 255)],
)
def test_the_extremes_of_a_datatype_are_kept(datatype, value):
    parsed = parse(body([value, value], datatype=datatype), None, one(datatype))
    assert parsed.inputs["x"].tolist() == [[value, value]]


def test_fp16_needs_binary_data():
    with pytest.raises(RequestError, match="send it as binary data"):
        parse(body(datatype="FP16"), None, one("FP16"))


FLOATS = np.ones((1, 2), np.float32)
BAD_BINARY = {
    "short": (binary(FLOATS[:, :1], shape=[1, 2]), "has 4 bytes of data, .* needs 8"),
    "size too large": (binary(FLOATS, size=9), "has 8 bytes of data after|describe 9|needs 8"),
    "size lies": (binary(FLOATS, size=10**12), "describe 1000000000000"),
    "size too small": (binary(FLOATS, size=4), "has 4 bytes"),
    "size negative": (binary(FLOATS, size=-8), "0 or more bytes"),
    "size no number": (binary(FLOATS, size="8"), "0 or more bytes"),
    "size a truth": (binary(FLOATS, size=True), "0 or more bytes"),
    "more than described": (binary(FLOATS, extra=b"\0"), "has 9 bytes of binary data, its inputs describe 8"),
    "shape lies": (binary(FLOATS, shape=[2**31 - 1, 2]), "needs 17179869176"),
    "length too large": ((body(), b"100000"), "that the body has"),
    "length no number": ((body(), b"x"), "that the body has"),
    "length negative": ((body(), b"-1"), "that the body has"),
    "length endless": ((body(), b"9" * 5000), "that the body has"),
    "length too small": ((body(), b"5"), "not an inference request"),
}


@pytest.mark.parametrize("case", BAD_BINARY)
def test_bad_binary_data_are_refused_in_one_sentence(case):
    (content, length), message = BAD_BINARY[case]
    with pytest.raises(RequestError, match=message):
        parse(content, length, one())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "too few for 2 elements"),
        (b"\1\0\0\0", "too few for 2 elements"),
        (b"\1\0\0\0a\xff\xff\xff\xff", "Element 1 of 'x' reaches past the end"),
        (b"\4\0\0\0abcdef", "Element 1 of 'x' reaches past the end"),
        (b"\1\0\0\0a\1\0\0\0bc", "1 bytes of data after its last element"),
    ],
)
def test_bytes_that_do_not_add_up_are_refused(content, message):
    array = np.frombuffer(content, np.uint8)
    whole, length = binary(array, shape=[1, 2], datatype="BYTES")
    with pytest.raises(RequestError, match=message):
        parse(whole, length, one("BYTES"))


def test_a_count_that_lies_costs_no_memory():
    array = np.frombuffer(b"\0\0\0\0", np.uint8)
    whole, length = binary(array, shape=[2**31 - 1, 2**31 - 1], datatype="BYTES")
    with pytest.raises(RequestError, match="too few"):
        parse(whole, length, one("BYTES", (-1, -1)))


def test_a_bool_is_0_or_1():
    whole, length = binary(np.array([[0, 2]], np.uint8), datatype="BOOL")
    with pytest.raises(RequestError, match="a byte other than 0 and 1"):
        parse(whole, length, one("BOOL"))


def test_data_and_binary_data_exclude_each_other():
    request = json.loads(body())
    request["inputs"][0]["parameters"] = {"binary_data_size": 8}
    content = json.dumps(request).encode()
    with pytest.raises(RequestError, match="either data, or a binary_data_size"):
        parse(content + FLOATS.tobytes(), str(len(content)).encode(), one())


def test_shared_memory_is_refused_where_there_is_none():
    request = json.loads(body())
    del request["inputs"][0]["data"]
    request["inputs"][0]["parameters"] = {"shared_memory_region": "r", "shared_memory_byte_size": 8}
    with pytest.raises(RequestError, match="Shared memory is not served here"):
        parse(json.dumps(request).encode(), None, one())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_does_not_carry_nan_and_binary_does(value):
    result = {"y": np.array([[value, 1]], np.float32)}
    in_json = parse(body(), None, one())
    with pytest.raises(RequestError, match=r"Output 'y' has NaN or infinity.*binary_data"):
        render(in_json, "m", "1", one(), result)
    in_binary = parse(body(outputs=[{"name": "y", "parameters": {"binary_data": True}}]), None, one())
    parts, length = render(in_binary, "m", "1", one(), result)
    assert b"".join(parts)[length:] == result["y"].tobytes()


def test_json_does_not_carry_bytes_that_are_no_text():
    parsed = parse(body(["a", "b"], datatype="BYTES"), None, one("BYTES"))
    with pytest.raises(RequestError, match=r"not UTF-8.*binary_data"):
        render(parsed, "m", "1", one("BYTES"), {"y": np.array([[b"\xff", b""]], np.object_)})


def test_outputs_are_chosen_and_mixed():
    outputs = [{"name": "z", "parameters": {"binary_data": True}}, {"name": "y"}]
    parsed = parse(body(outputs=outputs, parameters={"unit": "u1"}), None, signature())
    assert parsed.outputs == {"z": IN_BINARY, "y": IN_JSON_FORM}
    assert parsed.parameters == {"unit": "u1"}
    results = {"y": FLOATS, "z": np.array(1.5, np.float16)}
    parts, length = render(parsed, "m", "1", signature(), results)
    whole = b"".join(parts)
    assert [output["name"] for output in json.loads(whole[:length])["outputs"]] == ["z", "y"]
    assert whole[length:] == np.float16(1.5).tobytes()


@given(st.binary(max_size=300), st.one_of(st.none(), st.binary(max_size=4)))
def test_garbage_is_only_ever_refused(content, length):
    with pytest.raises(RequestError):
        parse(content, length, signature())


@given(st.data())
def test_a_mutated_request_is_parsed_or_refused(data):
    whole, length = binary(
        np.arange(4, dtype=np.float32).reshape(2, 2), parameters={"binary_data_output": True}
    )
    mutable = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        mutable[data.draw(st.integers(0, len(mutable) - 1))] = data.draw(st.integers(0, 255))
    try:
        parsed = parse(bytes(mutable), length, one())
    except RequestError:
        return
    assert parsed.inputs["x"].dtype == np.float32
    msgspec.json.encode(parsed.parameters)


@pytest.mark.parametrize(
    ("shape", "size_bytes", "found"),
    [((-1, 2), 8, (1, 2)), ((2, 2), 16, (2, 2)), ((-1, -1), 12, (1, 3)), ((-1,), 20, (5,)), ((), 4, ())],
)
def test_a_body_without_json_is_the_only_input(shape, size_bytes, found):
    content = np.arange(size_bytes // 4, dtype=np.float32).tobytes()
    parsed = parse(content, b"0", one("FP32", shape))
    assert parsed.inputs["x"].shape == found
    assert parsed.inputs["x"].tobytes() == content
    assert parsed.outputs == {"y": IN_BINARY}


@pytest.mark.parametrize(
    ("signature", "content", "message"),
    [
        (one("FP32", (-1, 2)), b"123", "3 bytes of data"),
        (one("FP32", (-1, -1, -1)), bytes(24), "cannot be told from its size"),
        (one("FP32", (2, 2)), bytes(20), "needs 16"),
        (one("BYTES", (2,)), b"text", "one element"),
        (Signature({"a": None, "b": None}, {}), b"", "models with one input"),
    ],
)
def test_a_body_without_json_that_does_not_fit_is_refused(signature, content, message):
    with pytest.raises(RequestError, match=message):
        parse(content, b"0", signature)


def test_text_without_json_is_one_element():
    assert parse(b"a text", b"0", one("BYTES", (-1,))).inputs["x"].tolist() == [b"a text"]


SIZES = st.one_of(st.integers(1, 3), st.integers(-2, 2**40))


@given(st.lists(SIZES, max_size=3), st.integers(0, 48), st.one_of(st.none(), SIZES), st.sampled_from(DATATYPES))
def test_a_tensor_has_the_bytes_of_its_shape_or_is_refused(shape, given_bytes, size, datatype):
    array = np.zeros(given_bytes, np.uint8)
    wish = {"binary_data_output": True}
    whole, length = binary(array, shape=shape, datatype=datatype, size=size, parameters=wish)
    dimensions = one(datatype, tuple(-1 for _ in shape))
    item_bytes = ITEM_SIZE_BYTES.get(datatype, 4)
    fits = min(shape, default=1) > 0 and math.prod(shape) * item_bytes == given_bytes
    if fits and size in (None, given_bytes):
        assert parse(whole, length, dimensions).inputs["x"].shape == tuple(shape)
    else:
        with pytest.raises(RequestError):
            parse(whole, length, dimensions)


@given(st.lists(st.one_of(st.just(-1), st.integers(1, 3)), max_size=3), st.binary(max_size=48), st.data())
def test_a_body_without_json_becomes_a_tensor_of_just_these_bytes(shape, content, data):
    datatype = data.draw(st.sampled_from([name for name in ITEM_SIZE_BYTES if name != "BOOL"]))
    dimensions = one(datatype, tuple(shape))
    try:
        tensor = parse(content, b"0", dimensions).inputs["x"]
    except RequestError:
        return
    assert tensor.tobytes() == content
    assert dimensions.inputs["x"].accepts(tensor.shape)
    assert 0 not in tensor.shape


def test_null_is_as_good_as_nothing():
    """As MLServer's library writes requests."""
    request = json.loads(body(parameters=None, outputs=[{"name": "y", "parameters": None}], id=None))
    request["inputs"][0]["parameters"] = None
    parsed = parse(json.dumps(request).encode(), None, signature())
    assert (parsed.id, parsed.parameters, list(parsed.outputs)) == (None, {}, ["y"])
    assert parsed.inputs["x"].tolist() == [[1, 2]]
    request["outputs"] = None
    assert list(parse(json.dumps(request).encode(), None, one()).outputs) == ["y"]


@pytest.mark.parametrize("changes", [{"inputs": None}, {"inputs": [None]}, {"parameters": None, "id": 3}])
def test_null_is_nothing_else(changes):
    with pytest.raises(RequestError, match="not an inference request"):
        parse(json.dumps({**json.loads(body()), **changes}).encode(), None, one())
