"""What docs/protocol.md says is what the server answers."""

import dataclasses
import http.client
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from onnx import helper

from edge_agent.documents.ipc import Applied
from edge_agent.documents.settings import CacheSettings
from support.serving import ServingProcess, identity_onnx, save_onnx, version_plan

PAGE = (Path(__file__).parents[2] / "docs/protocol.md").read_text()
URL = "http://127.0.0.1:8000"
EXAMPLES = re.findall(r"```sh\n(curl [^`]*)```\n\n```json\n([^`]*)```", PAGE)
PROGRAMS = re.findall(r"```python\n([^`]*)```", PAGE)
COUNTED = {"last_inference", "inference_count", "execution_count", "count", "ns", "byte_size"}


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingProcess]:
    """The models of the page."""
    folder = tmp_path_factory.mktemp("page")
    tensor = ("FP32", ["n", 4])
    node = helper.make_node("Identity", ["x"], ["y"])
    fruit = save_onnx(folder / "fruit.onnx", [node], {"x": tensor}, {"y": tensor})
    labels = ("apple", "pickle", "pear", "plum")
    versions = [
        dataclasses.replace(version_plan(fruit, "fruit", "7"), labels=labels, max_batch=8),
        version_plan(identity_onnx(folder / "words.onnx", "BYTES"), "words", "1"),
    ]
    with ServingProcess(folder / "s", cache=CacheSettings()) as process:
        assert isinstance(process.apply(*versions), Applied)
        yield process


def ask(serving: ServingProcess, command: str) -> Any:
    """Do what curl would; so the test needs none."""
    words = iter(shlex.split(command.replace("\\\n", " "))[2:])
    path, body, headers = "", None, {}
    for word in words:
        if word == "-d":
            body = next(words).encode()
        elif word == "-H":
            name, _, value = next(words).partition(": ")
            headers[name] = value
        else:
            assert word.startswith(URL)
            path = word.removeprefix(URL)
    connection = http.client.HTTPConnection(*serving.tcp, timeout=20)
    try:
        connection.request("GET" if body is None else "POST", path, body, headers)
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def match(documented: Any, found: Any, name: str = "") -> None:
    """Compare an answer with the documented one, whose `…` and counts stand for any."""
    if isinstance(documented, dict):
        assert list(documented) == list(found), name
        for key, value in documented.items():
            match(value, found[key], key)
    elif isinstance(documented, list) and name not in ("batch_stats",):
        assert len(documented) == len(found), name
        for index, value in enumerate(documented):
            match(value, found[index], name)
    elif documented != "…" and name not in COUNTED and name != "batch_stats":
        assert documented == found, name
    else:
        assert isinstance(found, type(documented)), name


@pytest.mark.parametrize(("command", "answer"), EXAMPLES)
def test_an_example_is_answered_as_documented(serving: ServingProcess, command: str, answer: str) -> None:
    match(json.loads(answer), ask(serving, command))


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_runs(serving: ServingProcess, program: str) -> None:
    names: dict[str, Any] = {}
    exec(program.replace(URL, "http://{}:{}".format(*serving.tcp)), names)
    assert names["y"].tolist() == names["x"].ravel().tolist()


def test_there_are_examples() -> None:
    assert len(EXAMPLES) > 7
    assert len(PROGRAMS) == 1
