import os
import subprocess
import sys
import threading

import numpy as np
import onnx
import pytest
from onnx import helper

from edge_agent.documents.errors import ModelLoadError, RequestError
from edge_agent.documents.settings import EngineSettings
from edge_agent.documents.tensors import NUMPY_NAME, TensorSpec
from edge_agent.engines.base import find, installed
from edge_agent.engines.onnx import OnnxEngine
from edge_agent.engines.tflite import TfliteEngine
from support.serving import (
    ONNX_TYPES,
    doubling_tflite,
    identity_onnx,
    magika,
    picky_onnx,
    save_onnx,
    wake_word,
)

ONE = EngineSettings(threads=1)
HAS_TFLITE_RUNTIME = sys.version_info < (3, 12)
"""tflite-runtime 2.14 is the last one, and has no wheels for later Pythons."""
TFLITE_RUNTIMES = ["ai-edge-litert", *(["tflite-runtime"] if HAS_TFLITE_RUNTIME else [])]


def values(datatype: str) -> np.ndarray:
    if datatype == "BYTES":
        return np.array([[b"", b"a\x00b"], ["ü€".encode(), b"x" * 300]], np.object_)
    return np.array([[0, 1], [1, 100]]).astype(NUMPY_NAME[datatype])


def test_engines_are_found_by_name():
    assert find("onnx") is OnnxEngine
    assert find("tflite") is TfliteEngine
    with pytest.raises(ModelLoadError, match=r"No engine is named 'torch'; this agent has: .*onnx, tflite"):
        find("torch")


def test_runtimes_say_their_versions():
    runtimes = installed(ONE)
    assert runtimes["onnx"].startswith("onnxruntime 1.")
    assert runtimes["tflite"].startswith("ai-edge-litert ")
    last = TfliteEngine.runtime(EngineSettings(tflite_runtime="tflite-runtime"))
    assert last == ("tflite-runtime 2.14.0" if HAS_TFLITE_RUNTIME else None)


def test_onnxruntime_does_not_report_home(tmp_path):
    """It leaves a device id in the home folder when it does; the variable CI would silence it by itself."""
    script = (
        "from pathlib import Path; from edge_agent.documents.settings import EngineSettings; "
        "from edge_agent.engines.onnx import OnnxEngine; import sys; "
        "OnnxEngine.load(Path(sys.argv[1]), EngineSettings(threads=1))"
    )
    hidden = ("CI", "ORT_DISABLE_TELEMETRY", "GITHUB_ACTIONS")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    model = identity_onnx(tmp_path / "m.onnx", "FP32")
    home = tmp_path / "home"
    home.mkdir()
    subprocess.run(
        [sys.executable, "-c", script, model], env={**environment, "HOME": str(home)}, check=True, timeout=60
    )
    assert list(home.rglob("*onnxruntime*")) == []


def test_tflite_runtime_counts_as_missing_with_numpy_2(monkeypatch, tmp_path):
    monkeypatch.setattr(np, "__version__", "2.1.0")
    settings = EngineSettings(tflite_runtime="tflite-runtime")
    assert TfliteEngine.runtime(settings) is None
    with pytest.raises(ModelLoadError, match="No TFLite runtime can be used"):
        TfliteEngine.load(tmp_path / "m.tflite", settings)


@pytest.mark.parametrize("datatype", ONNX_TYPES)
def test_onnx_carries_every_datatype(tmp_path, datatype):
    engine = OnnxEngine.load(identity_onnx(tmp_path / "m.onnx", datatype), ONE)
    assert engine.inputs == (TensorSpec("x", datatype, (-1, 2)),)
    assert engine.outputs == (TensorSpec("y", datatype, (-1, 2)),)
    given = values(datatype)
    (result,) = engine.run({"x": given}).values()
    assert result.dtype == given.dtype
    assert result.flags.c_contiguous
    np.testing.assert_array_equal(result, given)


def test_onnx_runs_a_real_model_from_several_threads():
    engine = OnnxEngine.load(magika(), ONE)
    tokens = np.random.default_rng(0).integers(0, 256, (3, 2048)).astype(np.int32)
    expected = engine.run({"bytes": tokens})["target_label"]
    assert expected.shape == (3, 214)
    np.testing.assert_allclose(expected.sum(axis=1), 1, rtol=1e-5)
    results: list[np.ndarray] = []
    threads = [
        threading.Thread(
            target=lambda: results.append(engine.run({"bytes": tokens}, ["target_label"])["target_label"])
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3
    for result in results:
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
    engine.close()


def test_onnx_refuses_strings_that_are_not_utf8(tmp_path):
    engine = OnnxEngine.load(identity_onnx(tmp_path / "m.onnx", "BYTES"), ONE)
    with pytest.raises(RequestError, match="'x' has an element that is not UTF-8"):
        engine.run({"x": np.array([[b"\xff", b""]], np.object_)})


def test_onnx_maps_a_failing_run(tmp_path):
    engine = OnnxEngine.load(picky_onnx(tmp_path / "m.onnx"), ONE)
    assert engine.run({"x": np.eye(2, dtype=np.float32)})["y"].shape == (2, 2)
    with pytest.raises(ModelLoadError, match=r"^ONNX Runtime failed: [^\n]*\.$") as caught:
        engine.run({"x": np.ones((2, 3), np.float32)})
    assert "[ONNXRuntimeError]" not in str(caught.value)


def test_onnx_refuses_a_provider_that_is_not_installed(tmp_path):
    settings = EngineSettings(onnx_providers=("CUDAExecutionProvider", "CPUExecutionProvider"))
    with pytest.raises(ModelLoadError, match=r"CUDAExecutionProvider is not installed.*CPUExecutionProvider"):
        OnnxEngine.load(identity_onnx(tmp_path / "m.onnx"), settings)


def test_onnx_refuses_values_that_are_no_tensors(tmp_path):
    node = helper.make_node("SequenceConstruct", ["x"], ["y"])
    path = save_onnx(tmp_path / "m.onnx", [node], {"x": ("FP32", [1])}, {})
    model = onnx.load(path)
    model.graph.output.append(helper.make_tensor_sequence_value_info("y", ONNX_TYPES["FP32"], None))
    onnx.save(model, path)
    with pytest.raises(ModelLoadError, match=r"'y' is a seq\(tensor\(float\)\).*zipmap off"):
        OnnxEngine.load(path, ONE)


@pytest.mark.parametrize("engine", [OnnxEngine, TfliteEngine])
@pytest.mark.parametrize("content", [None, b"", b"no model", b"\x00" * 1000])
def test_a_file_that_is_no_model_is_refused(tmp_path, engine, content):
    path = tmp_path / "model"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelLoadError, match="cannot load model: "):
        engine.load(path, ONE)


@pytest.mark.parametrize("runtime", TFLITE_RUNTIMES)
def test_tflite_follows_the_shape_of_its_input(tmp_path, runtime):
    settings = EngineSettings(threads=1, tflite_runtime=runtime)
    engine = TfliteEngine.load(doubling_tflite(tmp_path / "m.tflite"), settings)
    assert engine.inputs == (TensorSpec("x", "FP32", (-1, 3)),)
    first = engine.run({"x": np.ones((1, 3), np.float32)})["y"]
    for rows in (4, 1, 2):
        given = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
        np.testing.assert_array_equal(engine.run({"x": given}, ["y"])["y"], given * 2)
    np.testing.assert_array_equal(first, [[2, 2, 2]])  # of its own memory


@pytest.mark.parametrize("runtime", TFLITE_RUNTIMES)
def test_tflite_goes_on_after_a_failed_run(tmp_path, runtime):
    engine = TfliteEngine.load(
        doubling_tflite(tmp_path / "m.tflite"), EngineSettings(threads=1, tflite_runtime=runtime)
    )
    with pytest.raises(ModelLoadError, match="TFLite failed: "):
        engine.run({"x": np.ones((2, 3), np.int8)})
    np.testing.assert_array_equal(engine.run({"x": np.ones((2, 3), np.float32)})["y"], np.full((2, 3), 2))


@pytest.mark.parametrize("runtime", TFLITE_RUNTIMES)
def test_a_streaming_model_answers_without_regard_to_earlier_calls(runtime):
    engine = TfliteEngine.load(wake_word(), EngineSettings(threads=1, tflite_runtime=runtime))
    (given,), (output,) = engine.inputs, engine.outputs
    assert (given.datatype, given.shape) == ("INT8", (1, 3, 40))
    assert (output.datatype, output.shape) == ("UINT8", (1, 1))
    frames = np.random.default_rng(5).integers(-128, 128, (40, 1, 3, 40)).astype(np.int8)

    def run(frame):
        return engine.run({given.name: frame})[output.name].item()

    forwards = [run(frame) for frame in frames]
    backwards = [run(frame) for frame in frames[::-1]][::-1]
    assert forwards == backwards


def test_tflite_runs_wait_for_each_other(tmp_path):
    engine = TfliteEngine.load(doubling_tflite(tmp_path / "m.tflite"), ONE)
    right: list[bool] = []

    def work(rows: int) -> None:
        given = np.full((rows, 3), rows, np.float32)
        right.extend(bool((engine.run({"x": given})["y"] == given * 2).all()) for _ in range(100))

    threads = [threading.Thread(target=work, args=(rows,)) for rows in (1, 2, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * 300
    engine.close()


@pytest.mark.parametrize("library", ["/no/such/delegate.so", "libc.so.6"])
def test_a_delegate_that_is_none_is_refused(tmp_path, library):
    settings = EngineSettings(tflite_delegate=library)
    with pytest.raises(ModelLoadError, match=r"The delegate .* cannot be loaded .*engines.tflite_delegate"):
        TfliteEngine.load(doubling_tflite(tmp_path / "m.tflite"), settings)


def test_importing_the_engines_imports_no_runtime():
    code = (
        "import sys, edge_agent.engines.onnx, edge_agent.engines.tflite\n"
        "print([name for name in sys.modules if name.split('.')[0] in "
        "('onnxruntime', 'ai_edge_litert', 'tflite_runtime')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout == "[]\n"


def test_bfloat16_is_carried_as_its_bits(tmp_path):
    """Also beside other datatypes, and from memory that may not be written."""
    path = save_onnx(
        tmp_path / "m.onnx",
        [
            helper.make_node("Identity", ["x"], ["y"]),
            helper.make_node("Cast", ["x"], ["f"], to=onnx.TensorProto.FLOAT),
            helper.make_node("Not", ["b"], ["c"]),
            helper.make_node("Constant", [], ["t"], value_strings=["ü"]),
        ],
        {"x": ("BF16", ["n", 2]), "b": ("BOOL", [])},
        {"y": ("BF16", ["n", 2]), "f": ("FP32", ["n", 2]), "c": ("BOOL", []), "t": ("BYTES", [1])},
    )
    engine = OnnxEngine.load(path, ONE)
    numbers = np.array([[1.5, -2.0], [0.0, np.inf]], np.float32)
    bits = (numbers.view(np.uint32) >> 16).astype(np.uint16)
    bits.flags.writeable = False
    results = engine.run({"x": bits, "b": np.array(True)})
    np.testing.assert_array_equal(results["y"], bits)
    np.testing.assert_array_equal(results["f"], numbers)
    assert not results["c"]
    assert results["t"].tolist() == ["ü".encode()]
    results["y"][0, 0] = 0
    assert engine.run({"x": bits, "b": np.array(True)}, ["y"])["y"][0, 0] == bits[0, 0]


def test_bfloat16_beside_an_input_of_text_is_refused(tmp_path):
    path = save_onnx(
        tmp_path / "m.onnx",
        [helper.make_node("Identity", ["x"], ["y"]), helper.make_node("Identity", ["s"], ["t"])],
        {"x": ("BF16", [1]), "s": ("BYTES", [1])},
        {"y": ("BF16", [1]), "t": ("BYTES", [1])},
    )
    with pytest.raises(ModelLoadError, match="bfloat16 and an input of text"):
        OnnxEngine.load(path, ONE)
