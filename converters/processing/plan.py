"""What is to be written before and after a model, decided from the settings and the model's signature. Pure.

Both formats carry out the same plan, so the same settings give the same signature and the same answers.
Shapes have -1 where a dimension is free.
"""

from collections.abc import Collection, Sequence
from typing import Final

from converters.arrays import shown
from converters.errors import ConversionError
from converters.processing.audio import LogMelPlan, SamplesPlan, plan_audio
from converters.processing.image import ImagePlan, plan_image
from converters.processing.settings import PostprocessSettings, PreprocessSettings
from converters.processing.signature import FLOATS, content
from converters.terms import Format
from edge_agent.documents.errors import RequestError
from edge_agent.documents.tensors import TensorSpec

CLASS_OUTPUT: Final = "class"
LABEL_OUTPUT: Final = "label"

InputPlan = ImagePlan | SamplesPlan | LogMelPlan


def supports(target: Format, post: PostprocessSettings) -> str | None:
    """Say why a format cannot have this postprocessing, or None if it can.

    Variants of a version have one signature, so what one of the formats cannot have none may have.
    """
    if target == "tflite" and post.labels:
        return (
            "TFLite has no output of text; set postprocess.argmax instead of postprocess.labels, and look the "
            "name up in the manifest's labels."
        )
    return None


def plan_inputs(settings: PreprocessSettings, inputs: Sequence[TensorSpec]) -> list[InputPlan]:
    """Return what is put in front of which input.

    Raises RequestError for settings that contradict each other or the model's names, ConversionError for an
    input that cannot be fed so.
    """
    image, audio = settings.image, settings.audio
    pixels = None if image is None else _chosen(image.input, inputs, "image")
    samples = None if audio is None else _chosen(audio.input, inputs, "audio")
    if pixels is not None and pixels == samples:
        raise RequestError(
            f"preprocess.image and preprocess.audio both lead to the input '{pixels.name}'; name another in "
            "the 'input' of one, or leave one out."
        )
    plans: list[InputPlan] = []
    if image is not None and pixels is not None:
        plans.append(plan_image(image, pixels))
    if audio is not None and samples is not None:
        plans.append(plan_audio(audio, samples))
    return plans


def check_output(
    settings: PostprocessSettings, spec: TensorSpec, labels: Sequence[str], taken: Collection[str]
) -> None:
    """Raise ConversionError or RequestError if this cannot be put behind the first output.

    `taken` are the names of the model's inputs and outputs.
    """
    if spec.datatype not in FLOATS:
        raise ConversionError(
            f"Output '{spec.name}' gives {content(spec)}, not scores of classes; leave [postprocess] out, or "
            "export the model with its scores as its first output."
        )
    if not spec.shape or spec.shape[-1] == 1:
        raise ConversionError(
            f"Output '{spec.name}' is a single value, not scores of classes; leave [postprocess] out, or "
            "export the model with a score for each class."
        )
    if not (settings.argmax or settings.labels):
        return
    if len(spec.shape) != 2:
        raise ConversionError(
            f"Output '{spec.name}' has the shape {shown(spec.shape)}, not [n, classes]; leave "
            "postprocess.argmax and postprocess.labels out."
        )
    if settings.labels and len(labels) != spec.shape[-1]:
        size = "an unknown number of" if spec.shape[-1] < 0 else str(spec.shape[-1])
        raise RequestError(
            f"There are {len(labels)} class names, but output '{spec.name}' has {size} values; give one name "
            "for each, in their order, or leave postprocess.labels out."
        )
    for name, setting, is_added in (
        (CLASS_OUTPUT, "argmax", settings.argmax),
        (LABEL_OUTPUT, "labels", settings.labels),
    ):
        if is_added and name in taken:
            raise ConversionError(
                f"The model has an input or output '{name}' of its own; leave postprocess.{setting} out, or "
                "give that one another name."
            )


def _chosen(name: str, inputs: Sequence[TensorSpec], kind: str) -> TensorSpec:
    found = [spec for spec in inputs if spec.name == name] if name else list(inputs)
    if len(found) == 1:
        return found[0]
    names = ", ".join(spec.name for spec in inputs)
    if not name:
        raise RequestError(f"The model has {len(inputs)} inputs; name one in preprocess.{kind}.input: {names}.")
    raise RequestError(f"preprocess.{kind}.input names '{name}', but the model's inputs are: {names}.")
