import json
import shlex
import subprocess
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.cli.examples import curl_line, zero_shape
from edge_agent.documents.tensors import WITHOUT_JSON, Datatype, TensorSpec

URL = "http://127.0.0.1:8000"


def body_of(line: str) -> Any:
    """Return the JSON that a printed line sends, made as a shell would make it."""
    words = shlex.split(line)
    if words[0] == "curl":
        return json.loads(words[words.index("-d") + 1])
    program = line.partition(" | ")[0]
    made = subprocess.run(["sh", "-c", program], capture_output=True, text=True, timeout=30, check=True)
    return json.loads(made.stdout)


def test_a_small_tensor_is_spelled_out() -> None:
    line = curl_line("m", [TensorSpec("x", "FP32", (-1, 3))], URL)
    assert line is not None
    assert line.startswith("curl -s http://127.0.0.1:8000/v2/models/m/infer -d '{")
    assert body_of(line) == {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [0.0, 0.0, 0.0]}]
    }


def test_a_large_tensor_is_made_by_python_and_sent_over_the_socket() -> None:
    line = curl_line("m", [TensorSpec("a'b", "INT32", (2, 2048))], "http://localhost", "/run/with space/s")
    assert line is not None
    assert "--unix-socket '/run/with space/s' http://localhost/v2/models/m/infer -d @-" in line
    assert body_of(line)["inputs"][0]["name"] == "a'b"
    assert body_of(line)["inputs"][0]["data"] == [0] * 4096


def test_what_json_cannot_carry_has_no_line() -> None:
    assert all(curl_line("m", [TensorSpec("x", datatype, (1,))], URL) is None for datatype in ("FP16", "BF16"))
    assert curl_line("m", [TensorSpec("x", "FP32", (1000, 1001))], URL) is None


specs = st.lists(
    st.builds(
        TensorSpec,
        st.text(
            st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Co", "Cn")), min_size=1, max_size=6
        ),
        st.sampled_from([name for name in get_args(Datatype) if name not in WITHOUT_JSON]),
        st.lists(st.sampled_from([-1, 1, 2, 7]), max_size=3).map(tuple),
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=25, deadline=None)
@given(inputs=specs)
def test_a_line_always_sends_zeros_in_the_right_shape(inputs: list[TensorSpec]) -> None:
    line = curl_line("m", inputs, URL)
    assert line is not None
    sent = body_of(line)["inputs"]
    for spec, tensor in zip(inputs, sent, strict=True):
        shape = zero_shape(spec)
        assert (tensor["name"], tensor["datatype"], tuple(tensor["shape"])) == (spec.name, spec.datatype, shape)
        assert spec.accepts(shape)
        size = 1
        for dimension in shape:
            size *= dimension
        assert len(tensor["data"]) == size
        assert not any(tensor["data"])


@pytest.mark.parametrize("datatype", ["BOOL", "BYTES", "INT8"])
def test_zero_has_the_json_type_of_the_datatype(datatype: Datatype) -> None:
    line = curl_line("m", [TensorSpec("x", datatype, (1,))], URL)
    assert line is not None
    (value,) = body_of(line)["inputs"][0]["data"]
    assert type(value) is {"BOOL": bool, "BYTES": str, "INT8": int}[datatype]
