"""What the written graphs answer, on every engine, against references in numpy."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from converters.formats import tflite_model
from converters.processing import onnx as to_onnx
from converters.processing import tflite as to_tflite
from converters.processing.settings import (
    AudioSettings,
    ImageSettings,
    PostprocessSettings,
    PreprocessSettings,
)
from edge_agent.documents.settings import EngineSettings
from edge_agent.engines.base import Engine
from edge_agent.engines.onnx import OnnxEngine
from edge_agent.engines.tflite import TfliteEngine
from support import convertible, processable
from support.tflite_runtime import Elsewhere

NOTHING = PostprocessSettings()
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def engines(
    folder: Path,
    onnx_source: Path | None,
    tflite_source: Path | None,
    pre: PreprocessSettings,
    post: PostprocessSettings,
) -> list[Engine]:
    """Process a model in the formats given, and load it on every engine that runs those."""
    loaded: list[Engine] = []
    if onnx_source is not None:
        target = folder / "processed.onnx"
        to_onnx.add_processing(onnx_source, target, pre, post, ())
        loaded.append(OnnxEngine.load(target, EngineSettings()))
    if tflite_source is not None:
        target = folder / "processed.tflite"
        to_tflite.add_processing(tflite_source, target, pre, post, ())
        loaded.append(TfliteEngine.load(target, EngineSettings(tflite_runtime="ai-edge-litert", threads=1)))
        loaded.append(Elsewhere(target))
    return loaded


def resized(pixels: NDArray[np.uint8], height: int, width: int, kind: str) -> NDArray[np.float64]:
    """Resize images [n, h, w, c] with half-pixel centres, one axis after the other."""
    result = pixels.astype(np.float64)
    for axis, size in ((1, height), (2, width)):
        own = result.shape[axis]
        if kind == "nearest":
            # As TensorFlow rounds it.
            edges = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * (np.float32(own) / np.float32(size))
            result = result.take(np.floor(edges).astype(int), axis)
            continue
        places = (np.arange(size) + 0.5) * own / size
        places = np.clip(places - 0.5, 0, own - 1)
        low = np.floor(places).astype(int)
        share = (places - low).reshape([-1 if one == axis else 1 for one in range(4)])
        result = result.take(low, axis) * (1 - share) + result.take(np.minimum(low + 1, own - 1), axis) * share
    return result


def photos(count: int, height: int, width: int, channels: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(7).integers(0, 256, (count, height, width, channels), dtype=np.uint8)


def softmax(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


class TestImages:
    @pytest.mark.parametrize("kind", ["linear", "nearest"])
    @pytest.mark.parametrize("size", [(37, 53), (5, 31), (16, 24), (32, 624)])
    def test_any_size_is_resized_and_normalised(self, tmp_path: Path, kind: str, size: tuple[int, int]) -> None:
        settings = ImageSettings(mean=MEAN, std=STD, interpolation=kind)  # type: ignore[arg-type]
        pixels = photos(1, *size)

        loaded = engines(
            tmp_path,
            processable.onnx_mirror(tmp_path / "m.onnx", ("n", 3, 16, 24)),
            processable.tflite_mirror(tmp_path / "m.tflite", (1, 16, 24, 3)),
            PreprocessSettings(image=settings),
            NOTHING,
        )

        expected = (resized(pixels, 16, 24, kind) / 255 - MEAN) / STD
        assert len(loaded) == 3
        for engine in loaded:
            seen = engine.run({"given": pixels})["seen"]
            channels_last = seen.transpose(0, 2, 3, 1) if isinstance(engine, OnnxEngine) else seen
            # Coordinates of 600 pixels are known to 6e-5 in float32.
            np.testing.assert_allclose(channels_last, expected, atol=2e-4)
            assert [(one.name, one.datatype, one.shape[1:]) for one in engine.inputs] == [
                ("given", "UINT8", (-1, -1, 3))
            ]

    def test_blue_comes_first_where_the_model_takes_it_so(self, tmp_path: Path) -> None:
        pixels = photos(1, 4, 6)
        settings = ImageSettings(channels="bgr", scale=1.0, mean=(1.0, 2.0, 3.0), height=4, width=6)

        loaded = engines(
            tmp_path,
            processable.onnx_mirror(tmp_path / "m.onnx", ("n", 4, 6, 3)),
            processable.tflite_mirror(tmp_path / "m.tflite", (1, 3, 4, 6)),
            PreprocessSettings(image=settings),
            NOTHING,
        )

        expected = pixels[..., ::-1] - np.array([1.0, 2.0, 3.0])
        for engine in loaded:
            seen = engine.run({"given": pixels})["seen"]
            channels_last = seen if isinstance(engine, OnnxEngine) else seen.transpose(0, 2, 3, 1)
            np.testing.assert_allclose(channels_last, expected, atol=1e-5)
            assert engine.inputs[0].shape[1:] == (4, 6, 3)

    @pytest.mark.parametrize("count", [1, 3])
    def test_batch_stays_free(self, tmp_path: Path, count: int) -> None:
        pixels = photos(count, 9, 7, 1)

        loaded = engines(
            tmp_path,
            processable.onnx_mirror(tmp_path / "m.onnx", ("n", 6, 6, 1)),
            processable.tflite_mirror(tmp_path / "m.tflite", (-1, 6, 6, 1)),
            PreprocessSettings(image=ImageSettings(channels="gray")),
            NOTHING,
        )

        for engine in loaded:
            assert engine.inputs[0].shape == (-1, -1, -1, 1)
            seen = engine.run({"given": pixels})["seen"]
            np.testing.assert_allclose(seen, resized(pixels, 6, 6, "linear") / 255, atol=1e-5)

    def test_sizes_change_from_call_to_call(self, tmp_path: Path) -> None:
        loaded = engines(
            tmp_path,
            processable.onnx_mirror(tmp_path / "m.onnx", (1, 8, 8, 3)),
            processable.tflite_mirror(tmp_path / "m.tflite", (1, 8, 8, 3)),
            PreprocessSettings(image=ImageSettings()),
            NOTHING,
        )

        for engine in loaded:
            for size in ((20, 10), (4, 8), (20, 10)):
                pixels = photos(1, *size)
                seen = engine.run({"given": pixels})["seen"]
                np.testing.assert_allclose(seen, resized(pixels, 8, 8, "linear") / 255, atol=1e-5)

    def test_free_model_takes_pixels_as_they_are(self, tmp_path: Path) -> None:
        pixels = photos(1, 5, 9)

        loaded = engines(
            tmp_path,
            processable.onnx_mirror(tmp_path / "m.onnx", ("n", 3, "h", "w")),
            processable.tflite_mirror(tmp_path / "m.tflite", (1, -1, -1, 3)),
            PreprocessSettings(image=ImageSettings()),
            NOTHING,
        )

        for engine in loaded:
            seen = engine.run({"given": pixels})["seen"]
            channels_last = seen.transpose(0, 2, 3, 1) if isinstance(engine, OnnxEngine) else seen
            np.testing.assert_allclose(channels_last, pixels / 255, atol=1e-6)

    def test_half_floats_get_what_they_take(self, tmp_path: Path) -> None:
        source = processable.onnx_mirror(tmp_path / "m.onnx", ("n", 3, 8, 8), kind=TensorProto.FLOAT16)
        pixels = photos(2, 12, 12)

        (engine,) = engines(
            tmp_path, source, None, PreprocessSettings(image=ImageSettings()), PostprocessSettings(softmax=True)
        )

        seen = engine.run({"given": pixels})["seen"]
        scores = (resized(pixels, 8, 8, "linear") / 255).transpose(0, 3, 1, 2)
        assert seen.dtype == np.float16
        np.testing.assert_allclose(seen, softmax(scores), atol=1e-3)


class TestRealImageModel:
    """A CNN that recognises drawings of 12 x 12 pixels."""

    def test_pixels_go_in_and_classes_come_out(self, tmp_path: Path) -> None:
        weights = convertible.fitted()
        drawn = convertible.images(40)
        pixels = (drawn.pixels * 255).round().astype(np.uint8)[..., None]
        bare = OnnxEngine.load(convertible.write_onnx(tmp_path / "m.onnx", weights), EngineSettings())

        loaded = engines(
            tmp_path,
            tmp_path / "m.onnx",
            convertible.write_tflite(tmp_path / "m.tflite", weights, half=True, old=True),
            PreprocessSettings(image=ImageSettings(channels="gray")),
            PostprocessSettings(softmax=True, argmax=True),
        )

        expected = softmax(bare.run({"image": pixels.transpose(0, 3, 1, 2) / np.float32(255)})["scores"])
        for engine in loaded:
            assert [(one.name, one.datatype) for one in engine.outputs] == [
                ("scores", "FP32"),
                ("class", "INT64"),
            ]
            answers = [engine.run({"image": one[None]}) for one in pixels]
            probabilities = np.concatenate([answer["scores"] for answer in answers])
            classes = np.concatenate([answer["class"] for answer in answers])
            # The filters of the TFLite file are halves.
            tolerance = 1e-6 if isinstance(engine, OnnxEngine) else 5e-3
            np.testing.assert_allclose(probabilities, expected, atol=tolerance)
            assert (classes == drawn.classes).mean() > 0.95
            assert classes.tolist() == probabilities.argmax(axis=1).tolist()
            assert answers[0]["class"].shape == (1,)


class TestAudio:
    @pytest.mark.parametrize(
        ("shape", "expected"),
        [((1, 600), (1, 600)), ((1, 1, 600), (1, 1, 600)), ((1, 600, 1), (1, 600, 1)), ((600,), (600,))],
    )
    def test_samples_become_floats(
        self, tmp_path: Path, shape: tuple[int, ...], expected: tuple[int, ...]
    ) -> None:
        samples = np.random.default_rng(3).integers(-32768, 32768, (1, 600)).astype(np.int16)

        loaded = engines(
            tmp_path,
            processable.onnx_mirror(tmp_path / "m.onnx", shape),
            processable.tflite_mirror(tmp_path / "m.tflite", shape),
            PreprocessSettings(audio=AudioSettings()),
            NOTHING,
        )

        for engine in loaded:
            assert (engine.inputs[0].datatype, engine.inputs[0].shape) == ("INT16", (1, 600))
            seen = engine.run({"given": samples})["seen"]
            np.testing.assert_array_equal(seen, (samples / 32768).astype(np.float32).reshape(expected))

    def test_free_batch_and_length_stay_free(self, tmp_path: Path) -> None:
        loaded = engines(
            tmp_path,
            processable.onnx_mirror(tmp_path / "m.onnx", ("n", 1, "samples")),
            processable.tflite_mirror(tmp_path / "m.tflite", (-1, 1, -1)),
            PreprocessSettings(audio=AudioSettings()),
            NOTHING,
        )

        for engine in loaded:
            assert engine.inputs[0].shape == (-1, -1)
            assert engine.run({"given": np.ones((2, 77), np.int16)})["seen"].shape == (2, 1, 77)

    @pytest.mark.parametrize("sent", [None, 8000])
    @pytest.mark.parametrize(
        "axes",
        ["n f m", "n m f", "n 1 f m", "n 1 m f", "n f m 1", "n m f 1"],
        ids=lambda axes: axes.replace(" ", ""),
    )
    def test_spectrogram_is_what_training_computed(self, tmp_path: Path, axes: str, sent: int | None) -> None:
        sounds = processable.sounds
        sizes = {"n": 1, "1": 1, "f": sounds.FRAMES, "m": sounds.BANDS}
        shape = tuple(sizes[axis] for axis in axes.split())
        samples, _ = sounds.sounds(1, seed=5)
        samples = samples[:, : sent or 400 + (sounds.FRAMES - 1) * 160]

        loaded = engines(
            tmp_path,
            processable.onnx_mirror(tmp_path / "m.onnx", ("n", *shape[1:])),
            processable.tflite_mirror(tmp_path / "m.tflite", shape),
            PreprocessSettings(audio=AudioSettings(features="log-mel", mel_bins=sounds.BANDS, samples=sent)),
            NOTHING,
        )

        plain = sounds.log_mel(samples)
        expected = (plain.transpose(0, 2, 1) if axes.index("m") < axes.index("f") else plain).reshape(shape)
        for engine in loaded:
            assert engine.inputs[0].shape[1:] == samples.shape[1:]
            np.testing.assert_allclose(engine.run({"given": samples})["seen"], expected, atol=2e-4)

    def test_frames_that_share_no_block_with_hops(self, tmp_path: Path) -> None:
        sounds = processable.sounds
        samples = sounds.sounds(1, seed=5)[0][:, : 401 + 9 * 160]
        settings = AudioSettings(features="log-mel", mel_bins=10, frame_samples=401, low_hz=0, high_hz=4000)

        loaded = engines(
            tmp_path,
            processable.onnx_mirror(tmp_path / "m.onnx", ("n", 10, 10)),
            processable.tflite_mirror(tmp_path / "m.tflite", (-1, 10, 10)),
            PreprocessSettings(audio=settings),
            NOTHING,
        )

        windows = np.lib.stride_tricks.sliding_window_view(samples[0] / 32768, 401)[::160]
        power = np.abs(np.fft.rfft(windows * np.hanning(402)[:-1])) ** 2
        corners = 700 * (10 ** (np.linspace(0, np.log10(1 + 4000 / 700), 12)) - 1)
        hertz = np.linspace(0, 8000, 201)
        bands = [np.interp(hertz, corners[band : band + 3], (0, 1, 0)) for band in range(10)]
        expected = np.log(power @ np.transpose(bands) + 1e-6)
        for engine in loaded:
            answer = engine.run({"given": np.repeat(samples, 2, axis=0)})["seen"]
            np.testing.assert_allclose(answer, np.stack([expected, expected]), atol=2e-4)

    def test_model_hears(self, tmp_path: Path) -> None:
        sounds = processable.sounds
        samples, kinds = sounds.sounds(60, seed=9)
        source = sounds.write_onnx(tmp_path / "m.onnx", sounds.fitted())
        bare = OnnxEngine.load(source, EngineSettings()).run({"sound": sounds.log_mel(samples)[:, None]})[
            "scores"
        ]

        loaded = engines(
            tmp_path,
            source,
            processable.tflite_ears(tmp_path / "m.tflite"),
            PreprocessSettings(
                audio=AudioSettings(features="log-mel", mel_bins=sounds.BANDS, samples=sounds.SAMPLES)
            ),
            PostprocessSettings(softmax=True, argmax=True),
        )

        for engine in loaded:
            answers = [engine.run({"sound": one[None]}) for one in samples]
            np.testing.assert_allclose(
                np.concatenate([answer["scores"] for answer in answers]), softmax(bare), atol=1e-5
            )
            assert (np.concatenate([answer["class"] for answer in answers]) == kinds).mean() > 0.95


class TestOutputs:
    def test_label_is_the_name_of_the_class(self, tmp_path: Path) -> None:
        source = processable.onnx_mirror(tmp_path / "m.onnx", ("n", 3))
        target = tmp_path / "processed.onnx"

        to_onnx.add_processing(
            source, target, PreprocessSettings(), PostprocessSettings(labels=True), ["a", "ü", "c"]
        )

        engine = OnnxEngine.load(target, EngineSettings())
        answer = engine.run({"given": np.array([[0, 2, 1], [3, 2, 1]], np.float32)})
        assert [(one.name, one.datatype, one.shape) for one in engine.outputs][1:] == [
            ("label", "BYTES", (-1,))
        ]
        assert answer["label"].tolist() == ["ü".encode(), b"a"]
        np.testing.assert_array_equal(answer["seen"], [[0, 2, 1], [3, 2, 1]])

    def test_models_own_names_give_way(self, tmp_path: Path) -> None:
        for inner in ("class", "postprocess/softmax", "preprocess/audio/float"):
            loaded = engines(
                tmp_path,
                processable.onnx_mirror(tmp_path / "m.onnx", ("n", 5), inner=inner),
                processable.tflite_mirror(tmp_path / "m.tflite", (1, 5), inner=inner),
                PreprocessSettings(audio=AudioSettings()),
                PostprocessSettings(softmax=True, argmax=True),
            )

            for engine in loaded:
                answer = engine.run({"given": np.array([[0, 3, 32767, 5, 7]], np.int16)})
                assert (answer["class"], answer["seen"].sum()) == (2, pytest.approx(1))

    def test_output_may_be_read_by_other_nodes(self, tmp_path: Path) -> None:
        graph = helper.make_graph(
            [helper.make_node("Neg", ["given"], ["first"]), helper.make_node("Neg", ["first"], ["second"])],
            "model",
            [helper.make_tensor_value_info("given", TensorProto.FLOAT, ["n", 2])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in ("first", "second")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, tmp_path / "m.onnx")

        (engine,) = engines(
            tmp_path, tmp_path / "m.onnx", None, PreprocessSettings(), PostprocessSettings(softmax=True)
        )

        answer = engine.run({"given": np.array([[0.0, 3.0]], np.float32)})
        np.testing.assert_allclose(answer["first"], softmax(np.array([[0.0, -3.0]], np.float32)), atol=1e-6)
        np.testing.assert_array_equal(answer["second"], [[0.0, 3.0]])

    def test_inner_graphs_read_the_processed_input(self, tmp_path: Path) -> None:
        branches = {
            name: helper.make_graph(
                [helper.make_node(operator, ["given"], [name])],
                name,
                [],
                [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4])],
            )
            for name, operator in (("then_branch", "Identity"), ("else_branch", "Neg"))
        }
        graph = helper.make_graph(
            [helper.make_node("If", ["truth"], ["seen"], **branches)],
            "model",
            [helper.make_tensor_value_info("given", TensorProto.FLOAT, [1, 4])],
            [helper.make_tensor_value_info("seen", TensorProto.FLOAT, [1, 4])],
            [numpy_helper.from_array(np.array(True), "truth")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, tmp_path / "m.onnx")

        (engine,) = engines(
            tmp_path, tmp_path / "m.onnx", None, PreprocessSettings(audio=AudioSettings()), NOTHING
        )

        answer = engine.run({"given": np.full((1, 4), 16384, np.int16)})
        np.testing.assert_array_equal(answer["seen"], np.full((1, 4), 0.5))

    def test_signatures_of_tflite_follow(self, tmp_path: Path) -> None:
        plain = tmp_path / "plain.tflite"
        source = processable.tflite_mirror(tmp_path / "m.tflite", (1, 8))
        plain.write_bytes(tflite_model.normalised(tflite_model.read(source)))

        engines(
            tmp_path, None, plain, PreprocessSettings(audio=AudioSettings()), PostprocessSettings(True, True)
        )

        model = tflite_model.read(tmp_path / "processed.tflite")
        graph, signature = model.subgraphs[0], model.signatureDefs[0]
        assert tflite_model.signature_inputs(model) == {"given": "given"}
        assert [one.tensorIndex for one in signature.inputs] == list(graph.inputs)
        assert [(one.name, one.tensorIndex) for one in signature.outputs] == list(
            zip([b"seen", b"class"], graph.outputs, strict=True)
        )


class TestFiles:
    @pytest.mark.parametrize("write", [to_onnx.add_processing, to_tflite.add_processing])
    def test_same_arguments_give_the_same_bytes(self, tmp_path: Path, write: Callable[..., None]) -> None:
        source = (
            processable.onnx_mirror(tmp_path / "m", ("n", 20, 40))
            if write is to_onnx.add_processing
            else processable.tflite_mirror(tmp_path / "m", (1, 20, 40))
        )
        pre = PreprocessSettings(audio=AudioSettings(features="log-mel"))

        for name in ("a", "b"):
            write(source, tmp_path / name, pre, PostprocessSettings(softmax=True), ())

        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()

    @pytest.mark.parametrize(("before", "after"), [(11, 13), (13, 13), (20, 20)])
    def test_opset_is_raised_where_needed(self, tmp_path: Path, before: int, after: int) -> None:
        source = processable.onnx_mirror(tmp_path / "m.onnx", ("n", 3, 8, 8), opset=before)

        (engine,) = engines(tmp_path, source, None, PreprocessSettings(image=ImageSettings()), NOTHING)

        model = onnx.load(tmp_path / "processed.onnx")
        assert [entry.version for entry in model.opset_import] == [after]
        assert engine.run({"given": photos(2, 4, 4)})["seen"].shape == (2, 3, 8, 8)

    def test_added_parts_are_named_so(self, tmp_path: Path) -> None:
        source = convertible.write_onnx(tmp_path / "m.onnx", convertible.fitted())
        own = onnx.load(source)
        tflite = convertible.write_tflite(tmp_path / "m.tflite", convertible.fitted())
        pre = PreprocessSettings(image=ImageSettings(channels="gray", mean=(0.5,)))

        engines(tmp_path, source, tflite, pre, PostprocessSettings(True, True))

        model = onnx.load(tmp_path / "processed.onnx")
        added = [node.name for node in model.graph.node][: -len(own.graph.node) - 2]
        assert all(name.startswith("preprocess/") for name in added)
        assert [node.name for node in model.graph.node][-2:] == ["postprocess/softmax", "postprocess/argmax"]
        constants = {tensor.name for tensor in model.graph.initializer} - {
            tensor.name for tensor in own.graph.initializer
        }
        assert constants
        assert all(name.startswith("preprocess/") for name in constants)
        graph = tflite_model.read(tmp_path / "processed.tflite").subgraphs[0]
        produced = [bytes(graph.tensors[one.outputs[0]].name).decode() for one in graph.operators]
        assert [name.split("/")[0] for name in produced] == [
            *["preprocess"] * 4, "convolved", "pooled", "model", "postprocess", "scores", "class",
        ]  # fmt: skip

    def test_operators_of_tflite_have_the_versions_that_they_need(self, tmp_path: Path) -> None:
        source = processable.tflite_mirror(tmp_path / "m.tflite", (1, 8, 8, 3))

        engines(tmp_path, None, source, PreprocessSettings(image=ImageSettings()), NOTHING)

        model = tflite_model.read(tmp_path / "processed.tflite")
        versions = {code.builtinCode: code.version for code in model.operatorCodes}
        assert versions[schema.BuiltinOperator.RESIZE_BILINEAR] == 3
        assert versions[schema.BuiltinOperator.CAST] == 1
