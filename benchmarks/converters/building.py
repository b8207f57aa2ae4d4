"""From a subject to files: the one place of the benchmark that calls the converter."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.converters.data import Array
from benchmarks.converters.subjects import PRUNED, SEARCH, Subject
from edge_agent.documents.errors import EdgeAgentError
from edge_agent.documents.manifest import blob_path

NO_LIMIT = 100.0
"""Points that may be lost: the benchmark measures what the converter's gate would refuse."""
SEARCH_DROP = 0.5
PRUNED_SHARE = 0.8


@dataclass(frozen=True)
class Built:
    """A file that the converter made."""

    variant: str
    """A precision, or one of SEARCH and PRUNED."""
    format: str
    path: Path
    runtimes: tuple[str, ...]
    """Those that the manifest offers it to."""


@dataclass(frozen=True)
class Refused:
    """A file that the converter did not make, and why."""

    variant: str
    format: str
    reason: str


class NotYetError(Exception):
    """The converter has no way to this yet."""


def build(subject: Subject, form: str, variant: str, folder: Path) -> Built | Refused:
    """Have one variant made in a format; what the converter refuses, or cannot do, is told with its reason."""
    try:
        package = _convert(subject, form, variant, folder / f"{form}-{variant.replace(' ', '-')}")
    except (EdgeAgentError, NotYetError) as error:
        return Refused(variant, form, str(error))
    here = [one for one in package.manifest.variants if "aarch64" not in one.requires.architectures]
    return Built(variant, form, package.folder / blob_path(here[0].file.sha256), here[0].requires.runtimes)


def _convert(subject: Subject, form: str, variant: str, folder: Path) -> Any:
    """Call the converter for one format and variant.

    Until `converters.convert` takes live objects and the recipe's sections, the model is exported here.
    """
    from converters.build import convert

    if variant in (SEARCH, PRUNED):
        raise NotYetError(f"The converter has no '{variant}' yet.")
    source = exported(subject, form, folder)
    arrays = dict(subject.conversion)
    if subject.framework == "sklearn":
        arrays.pop("y")  # the first output is the class itself, which the present converter can't judge
    precision = _own_precision(source) if variant == "fp32" else variant
    return convert(source, precisions=[precision], data=arrays, out=folder, name="model", max_drop=NO_LIMIT)


def _own_precision(source: Path) -> str:
    """Return the precision that a source has, which the benchmark calls its float model."""
    from converters.formats.sources import read_source

    return read_source(source).precision


def exported(subject: Subject, form: str, folder: Path) -> Path:
    """Return the float model's file in a format, exported by its framework; a file is returned as it is."""
    if isinstance(subject.model, Path):
        return subject.model
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.parent / f"float.{form}"
    if not path.exists():
        ways = {
            ("torch", "onnx"): _torch_to_onnx,
            ("torch", "tflite"): _torch_to_tflite,
            ("keras", "onnx"): _keras_to_onnx,
            ("keras", "tflite"): _keras_to_tflite,
            ("sklearn", "onnx"): _sklearn_to_onnx,
        }
        ways[subject.framework, form](subject.model, subject.conversion["x"], path)
    return path


def _torch_to_onnx(model: Any, x: Array, path: Path) -> None:
    import torch

    batch = torch.export.Dim("batch")
    torch.onnx.export(
        model,
        (torch.from_numpy(x[:2]),),
        str(path),
        dynamo=True,
        external_data=False,
        dynamic_shapes=[{0: batch}],
        input_names=["x"],
        output_names=["scores"],
        verbose=False,
    )


def _torch_to_tflite(model: Any, x: Array, path: Path) -> None:
    import litert_torch
    import torch

    litert_torch.convert(model, (torch.from_numpy(x[:1]),)).export(str(path))


def _keras_to_onnx(model: Any, x: Array, path: Path) -> None:
    model(x[:1])
    model.export(str(path), format="onnx", verbose=False)


def _keras_to_tflite(model: Any, x: Array, path: Path) -> None:
    import tensorflow
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    spec = tensorflow.TensorSpec((1, *x.shape[1:]), tensorflow.float32)
    function = tensorflow.function(lambda x: model(x, training=False)).get_concrete_function(spec)
    # The converter leaves the variables of Keras 3 models outside of the file unless they are constants.
    frozen = convert_variables_to_constants_v2(function)
    path.write_bytes(tensorflow.lite.TFLiteConverter.from_concrete_functions([frozen]).convert())


def _sklearn_to_onnx(model: Any, x: Array, path: Path) -> None:
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType

    proto = convert_sklearn(
        model,
        initial_types=[("x", FloatTensorType([None, x.shape[1]]))],
        options={id(model): {"zipmap": False}},
        target_opset={"": 20, "ai.onnx.ml": 3},
    )
    path.write_bytes(proto.SerializeToString())


def torch_dynamic(model: Any) -> Any:
    """Return torch's own dynamically quantized copy: int8 weights of the Linear layers, eager mode."""
    import warnings

    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, which is why it can't be exported
        return torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)


def state_bytes(model: Any) -> bytes:
    """Return a torch model's saved state dict."""
    import io

    import torch

    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    return buffer.getvalue()


def torch_answers(model: Any, test: Sequence[Mapping[str, Array]]) -> tuple[list[dict[str, Array]], float]:
    """Run a torch model eagerly, one sample a run; returns the answers and the median milliseconds of a run."""
    import time

    import torch

    answers, times = [], []
    with torch.inference_mode():
        for sample in test:
            x = torch.from_numpy(sample["x"])
            begin = time.perf_counter()
            scores = model(x)
            times.append(time.perf_counter() - begin)
            answers.append({"scores": scores.numpy()})
    return answers, 1000 * float(np.median(times))
