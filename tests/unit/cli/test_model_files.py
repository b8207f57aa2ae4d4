import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from edge_agent.cli.model_files import inspect, name_of, named
from edge_agent.cli.serve import base_url, free_port
from edge_agent.documents.errors import ModelLoadError, NotFoundError, OperatorError, RequestError
from edge_agent.documents.manifest import ModelName
from edge_agent.documents.settings import EngineSettings
from edge_agent.documents.tensors import TensorSpec
from support.models import affine_onnx

SETTINGS = EngineSettings(threads=1)


@given(st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=80))
def test_every_file_name_gives_a_valid_model_name(stem: str) -> None:
    TypeAdapter(ModelName).validate_python(name_of(Path(f"{stem}.onnx")))


def test_a_model_file_is_loaded_to_learn_its_inputs(tmp_path: Path) -> None:
    served = inspect(affine_onnx(tmp_path / "Model.ONNX", 2.0), "m", SETTINGS)
    assert served.takes_zeros
    assert served.plan.inputs == (TensorSpec("x", "FP32", (-1, 3)),)
    assert (served.plan.engine, served.plan.version) == ("onnx", "dev")
    assert Path(served.plan.path).is_absolute()


def test_a_file_that_cannot_be_served_is_told_in_one_sentence(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(ModelLoadError, match=r"ONNX Runtime cannot load broken\.onnx"):
        inspect(broken, "m", SETTINGS)
    with pytest.raises(NotFoundError, match="There is no file"):
        inspect(tmp_path / "absent.tflite", "m", SETTINGS)
    with pytest.raises(RequestError, match=r"neither \.onnx nor \.tflite; convert it first"):
        inspect(tmp_path / "model.pt", "m", SETTINGS)


def test_names() -> None:
    paths = [Path("a/My Model_v2.onnx"), Path("b.tflite")]
    assert named(paths, None) == [("my-model-v2", paths[0]), ("b", paths[1])]
    assert named(paths[:1], "magika") == [("magika", paths[0])]
    with pytest.raises(RequestError, match="--name fits one MODEL"):
        named(paths, "magika")
    with pytest.raises(RequestError, match="'No Name' is no model name"):
        named(paths[:1], "No Name")
    with pytest.raises(RequestError, match="would both be named 'b'; rename one"):
        named([Path("b.onnx"), Path("x/b.tflite")], None)


def test_a_taken_port_names_the_option() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OperatorError, match=rf"port {port}: address already in use; give"):
            free_port("127.0.0.1", port)
    assert free_port("127.0.0.1", 0) > 0
    with pytest.raises(RequestError, match="'no host' is no address"):
        free_port("no host", 1)
    with pytest.raises(RequestError, match="70000 is no TCP port"):
        free_port("127.0.0.1", 70000)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8"),
        ("0.0.0.0", "http://127.0.0.1:8"),
        ("::1", "http://[::1]:8"),
        ("::", "http://[::1]:8"),
    ],
)
def test_the_url_can_be_pasted(host: str, url: str) -> None:
    assert base_url(host, 8) == url
