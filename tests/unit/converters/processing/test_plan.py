from dataclasses import replace

import pytest

from converters.errors import ConversionError
from converters.processing.audio import LogMelPlan, SamplesPlan, plan_audio
from converters.processing.image import plan_image
from converters.processing.plan import check_output, plan_inputs, supports
from converters.processing.settings import (
    AudioSettings,
    ImageSettings,
    PostprocessSettings,
    PreprocessSettings,
)
from edge_agent.documents.errors import EdgeAgentError, RequestError
from edge_agent.documents.tensors import TensorSpec

PHOTO = TensorSpec("photo", "FP32", (-1, 3, 64, 96))
SOUND = TensorSpec("sound", "FP32", (1, 1, 98, 40))
SCORES = TensorSpec("scores", "FP32", (-1, 3))
LOG_MEL = AudioSettings(features="log-mel")
ARGMAX = PostprocessSettings(argmax=True)


def refused(kind: type[EdgeAgentError], match: str) -> pytest.RaisesExc[EdgeAgentError]:
    """Expect an error of exactly this kind whose message is one sentence."""

    def is_one_sentence(error: EdgeAgentError) -> bool:
        said = str(error)
        return type(error) is kind and said.endswith(".") and ". " not in said and "\n" not in said

    return pytest.raises(kind, match=match, check=is_one_sentence)


class TestInputs:
    def test_only_input_needs_no_name(self) -> None:
        assert [plan.name for plan in plan_inputs(PreprocessSettings(image=ImageSettings()), [PHOTO])] == [
            "photo"
        ]

    def test_image_and_sound_of_one_model(self) -> None:
        settings = PreprocessSettings(ImageSettings(input="photo"), replace(LOG_MEL, input="sound"))

        assert [plan.name for plan in plan_inputs(settings, [SOUND, PHOTO])] == ["photo", "sound"]

    def test_name_is_needed_among_several(self) -> None:
        with refused(RequestError, r"has 2 inputs; name one in preprocess.image.input: photo, sound"):
            plan_inputs(PreprocessSettings(image=ImageSettings()), [PHOTO, SOUND])

    def test_unknown_name(self) -> None:
        with refused(RequestError, "names 'picture', but the model's inputs are: photo"):
            plan_inputs(PreprocessSettings(image=ImageSettings(input="picture")), [PHOTO])

    @pytest.mark.parametrize("spec", [PHOTO, SOUND])
    def test_both_for_the_same_input(self, spec: TensorSpec) -> None:
        with refused(RequestError, f"both lead to the input '{spec.name}'"):
            plan_inputs(PreprocessSettings(ImageSettings(), LOG_MEL), [spec])

    @pytest.mark.parametrize(("datatype", "shown"), [("BYTES", "text"), ("UINT8", "UINT8"), ("INT8", "INT8")])
    @pytest.mark.parametrize(
        "settings", [PreprocessSettings(ImageSettings()), PreprocessSettings(audio=LOG_MEL)]
    )
    def test_input_that_takes_no_floats(self, settings: PreprocessSettings, datatype: str, shown: str) -> None:
        spec = replace(PHOTO, datatype=datatype)

        with refused(ConversionError, f"'photo' takes {shown}, and preprocessing goes in front of floats"):
            plan_inputs(settings, [spec])


class TestImages:
    @pytest.mark.parametrize(("name", "values"), [("mean", (0.1, 0.2)), ("std", (1.0,) * 4)])
    def test_values_that_are_not_one_a_channel(self, name: str, values: tuple[float, ...]) -> None:
        with refused(RequestError, f"preprocess.image.{name} has {len(values)} values; give 1 or 3"):
            plan_image(ImageSettings(**{name: values}), PHOTO)

    @pytest.mark.parametrize(
        ("settings", "shape"),
        [
            (ImageSettings(), (-1, 64)),
            (ImageSettings(), ()),
            (ImageSettings(), (1, 64, 64)),
            (ImageSettings(), (1, 1, 28, 28)),
            (ImageSettings(channels="gray"), (1, 3, 28, 28)),
            (ImageSettings(layout="nhwc"), (1, 3, 28, 28)),
            (ImageSettings(), (-1, -1, -1, -1)),
        ],
    )
    def test_input_that_is_no_image(self, settings: ImageSettings, shape: tuple[int, ...]) -> None:
        with refused(ConversionError, "is no batch of images with"):
            plan_image(settings, replace(PHOTO, shape=shape))

    def test_channels_first_or_last(self) -> None:
        narrow = replace(PHOTO, shape=(1, 3, 64, 3))

        with refused(RequestError, "set preprocess.image.layout to 'nchw' or 'nhwc'"):
            plan_image(ImageSettings(), narrow)
        assert plan_image(ImageSettings(layout="nchw"), narrow).shape == (1, 64, 3, 3)
        assert plan_image(ImageSettings(layout="nhwc"), narrow).shape == (1, 3, 64, 3)

    def test_nothing_is_resized_that_has_the_size(self) -> None:
        assert plan_image(ImageSettings(), PHOTO).resize
        assert plan_image(ImageSettings(height=64), PHOTO).raw == (-1, 64, -1, 3)
        assert not plan_image(ImageSettings(height=64, width=96), PHOTO).resize

    def test_constants_that_change_nothing_are_left_out(self) -> None:
        plan = plan_image(ImageSettings(scale=2, std=(2.0,)), PHOTO)

        assert (plan.multiplier, plan.subtrahend) == (None, None)

    def test_half_free_image_is_not_resized(self) -> None:
        spec = replace(PHOTO, shape=(1, 3, 32, -1))

        assert plan_image(ImageSettings(width=50), spec).raw == (1, 32, 50, 3)
        with refused(RequestError, "set preprocess.image.height to 32 or leave it out"):
            plan_image(ImageSettings(height=40), spec)


class TestAudio:
    @pytest.mark.parametrize("shape", [(1, 2, 600), (1,), (1, 1, 1), ()])
    def test_input_that_is_no_row_of_samples(self, shape: tuple[int, ...]) -> None:
        with refused(ConversionError, "is no row of samples"):
            plan_audio(AudioSettings(), replace(SOUND, shape=shape))

    def test_length_that_the_model_does_not_take(self) -> None:
        with refused(RequestError, "takes 600 samples; set preprocess.audio.samples to 600"):
            plan_audio(AudioSettings(samples=500), replace(SOUND, shape=(1, 600)))

    def test_length_of_a_model_that_takes_any(self) -> None:
        plan = plan_audio(AudioSettings(samples=500), replace(SOUND, shape=(-1, -1)))

        assert isinstance(plan, SamplesPlan)
        assert plan.raw == (-1, 500)

    @pytest.mark.parametrize(
        "shape", [(1, 98, 41), (1, 98), (1, 2, 98, 40), (1, 1, 98, 41), (98, 40), (1, 98, -1)]
    )
    def test_input_that_is_no_spectrogram(self, shape: tuple[int, ...]) -> None:
        with refused(ConversionError, "is no spectrogram of 40 mel bands"):
            plan_audio(LOG_MEL, replace(SOUND, shape=shape))

    @pytest.mark.parametrize(("low", "high"), [(20.0, 8001.0), (300.0, 300.0), (9000.0, None)])
    def test_bands_beyond_the_rate(self, low: float, high: float | None) -> None:
        with refused(RequestError, "do not fit a rate of 16000 Hz"):
            plan_audio(replace(LOG_MEL, low_hz=low, high_hz=high), SOUND)

    def test_samples_follow_from_frames(self) -> None:
        plan = plan_audio(LOG_MEL, SOUND)

        assert isinstance(plan, LogMelPlan)
        assert (plan.raw, plan.block_samples, plan.transposed) == ((1, 400 + 97 * 160), 80, False)

    def test_frames_follow_from_samples(self) -> None:
        free = replace(SOUND, shape=(-1, 40, -1))

        plan = plan_audio(replace(LOG_MEL, samples=16000), free)

        assert isinstance(plan, LogMelPlan)
        assert (plan.frames, plan.used_samples, plan.target) == (98, 15920, (-1, 40, 98))
        with refused(RequestError, "takes any number of frames"):
            plan_audio(LOG_MEL, free)

    @pytest.mark.parametrize(
        ("samples", "said"), [(16160, "16160 samples are 99 frames"), (399, "399 samples are less")]
    )
    def test_samples_that_are_not_the_frames(self, samples: int, said: str) -> None:
        with refused(RequestError, said):
            plan_audio(replace(LOG_MEL, samples=samples), SOUND)


class TestOutputs:
    def test_labels_are_for_onnx_alone(self) -> None:
        assert supports("onnx", PostprocessSettings(True, True, True)) is None
        assert supports("tflite", PostprocessSettings(True, True, False)) is None
        assert "set postprocess.argmax instead" in (supports("tflite", PostprocessSettings(labels=True)) or "")

    @pytest.mark.parametrize("datatype", ["INT64", "BYTES", "UINT8"])
    def test_output_that_is_no_scores(self, datatype: str) -> None:
        with refused(ConversionError, "not scores of classes"):
            check_output(PostprocessSettings(softmax=True), replace(SCORES, datatype=datatype), (), ())

    @pytest.mark.parametrize("shape", [(-1, 1), ()])
    def test_single_value(self, shape: tuple[int, ...]) -> None:
        with refused(ConversionError, "is a single value"):
            check_output(ARGMAX, replace(SCORES, shape=shape), (), ())

    @pytest.mark.parametrize("shape", [(3,), (-1, 20, 20, 3)])
    def test_classes_of_something_else(self, shape: tuple[int, ...]) -> None:
        with refused(ConversionError, r"not \[n, classes\]"):
            check_output(ARGMAX, replace(SCORES, shape=shape), (), ())
        check_output(PostprocessSettings(softmax=True), replace(SCORES, shape=shape), (), ())

    @pytest.mark.parametrize(
        ("shape", "has"), [((-1, 3), "3 values"), ((-1, -1), "an unknown number of values")]
    )
    def test_labels_that_are_not_the_classes(self, shape: tuple[int, ...], has: str) -> None:
        with refused(RequestError, f"There are 2 class names, but output 'scores' has {has}"):
            check_output(PostprocessSettings(labels=True), replace(SCORES, shape=shape), ("a", "b"), ())

    def test_names_that_the_model_has(self) -> None:
        with refused(ConversionError, "input or output 'class' of its own"):
            check_output(ARGMAX, SCORES, (), {"class"})
        with refused(ConversionError, "input or output 'label' of its own"):
            check_output(PostprocessSettings(labels=True), SCORES, ("a", "b", "c"), {"label"})
        check_output(ARGMAX, SCORES, (), {"label"})
