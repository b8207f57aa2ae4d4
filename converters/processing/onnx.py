"""Writes pre- and postprocessing into an ONNX file.

Source: https://onnx.ai/onnx/operators/. Opset 13 is enough for all of it. onnx is imported when a model is
processed, never with this module.

The spectrogram is two convolutions: 0.21 ms for a second of sound, 3.8 ms with the operator STFT of opset 17
(ONNX Runtime 1.32, one thread), and no quantizer of weights touches them. A matrix product of gathered frames
took 0.17 ms, but its weights would be.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from converters.errors import ConversionError
from converters.formats import onnx_model
from converters.processing.audio import SAMPLE_SCALE, LogMelPlan, SamplesPlan
from converters.processing.image import ImagePlan
from converters.processing.onnx_graph import OnnxGraph, batch_and
from converters.processing.plan import CLASS_OUTPUT, LABEL_OUTPUT, InputPlan, check_output, plan_inputs
from converters.processing.settings import PostprocessSettings, PreprocessSettings
from edge_agent.documents.tensors import DATATYPE_OF_NUMPY, NUMPY_NAME, Datatype, TensorSpec
from edge_agent.engines.runtimes import sentence

_TO_NCHW: Final = (0, 3, 1, 2)
_FLOAT: Final = 1
"""TensorProto's number of float32, and of int64."""
_INT64: Final = 7


def add_processing(
    source: Path, target: Path, pre: PreprocessSettings, post: PostprocessSettings, labels: Sequence[str]
) -> None:
    """Write a copy of an ONNX model that takes what apps have and answers what they show.

    Inputs and outputs keep their names; images become UINT8 [n, height, width, channels], samples INT16
    [n, samples]; outputs `class` INT64 [n] and `label` BYTES [n] are added. All added nodes and constants are
    called `preprocess/...` and `postprocess/...`. Equal arguments give equal bytes.

    Raises RequestError for settings that do not fit the model, ConversionError for a model that cannot be
    processed so, ModelError for a damaged file.
    """
    onnx = onnx_model.library()
    model = _at_opset(onnx, onnx_model.read(source))
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    graph = OnnxGraph(onnx, model)
    for plan in plan_inputs(pre, [_spec(onnx, value) for value in inputs]):
        _write_input(onnx, graph, plan, next(value for value in inputs if value.name == plan.name))
    if not post.is_empty:
        output = _first_output(onnx, model)
        taken = {value.name for value in (*inputs, *model.graph.output)}
        check_output(post, _spec(onnx, output), labels, taken)
        _write_output(onnx, graph, post, output, labels)
    graph.finish()
    try:
        onnx.checker.check_model(model)
    except Exception as error:
        raise ConversionError(
            f"The processing cannot be written into {source.name}: {sentence(error)}; leave "
            "[preprocess] and [postprocess] out, or export the model again."
        ) from error
    onnx_model.save(model, target)


def write_preprocessing(inputs: Sequence[TensorSpec], target: Path, pre: PreprocessSettings) -> None:
    """Write an ONNX model that takes what apps send and gives what a model with these inputs takes, in order.

    Its outputs are called `prepared_0` and so on; a batch is free. Raises like `add_processing`.
    """
    onnx = onnx_model.library()
    helper = onnx.helper
    values, nodes, results = [], [], []
    for number, spec in enumerate(inputs):
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(NUMPY_NAME[spec.datatype]))
        shape = ["batch" if axis == 0 else None if size == -1 else size for axis, size in enumerate(spec.shape)]
        values.append(helper.make_tensor_value_info(spec.name, kind, shape))
        results.append(helper.make_tensor_value_info(f"prepared_{number}", kind, shape))
        nodes.append(helper.make_node("Identity", [spec.name], [f"prepared_{number}"]))
    opset = helper.make_opsetid("", onnx_model.MIN_OPSET)
    graph = helper.make_graph(nodes, "preprocessing", values, results)
    onnx_model.save(helper.make_model(graph, opset_imports=[opset]), target)
    add_processing(target, target, pre, PostprocessSettings(), ())


def _write_input(onnx: Any, graph: OnnxGraph, plan: InputPlan, value: Any) -> None:
    """Put a plan's nodes in front of an input and declare what it takes now."""
    tensor = value.type.tensor_type
    own_type = tensor.elem_type
    batch = _dimension(tensor.shape.dim[0]) if len(tensor.shape.dim) > 1 else 1
    if isinstance(plan, ImagePlan):
        last = _write_image(graph, plan, batch)
    elif isinstance(plan, SamplesPlan):
        last = _write_samples(graph, plan, batch)
    else:
        last = _write_log_mel(graph, plan, batch)
    if own_type != _FLOAT:
        last = graph.node("Cast", [last], "preprocess/own-datatype", to=own_type)
    graph.put_in_front(plan.name, last)
    sent = "UINT8" if isinstance(plan, ImagePlan) else "INT16"
    free = ("", "/height", "/width", "") if isinstance(plan, ImagePlan) else ("", "/samples")
    shape = [f"{plan.name}{end}" if size == -1 else size for size, end in zip(plan.raw, free, strict=True)]
    value.CopyFrom(
        onnx.helper.make_tensor_value_info(
            plan.name, onnx.TensorProto.DataType.Value(sent), [batch, *shape[1:]]
        )
    )


def _write_image(graph: OnnxGraph, plan: ImagePlan, batch: Any) -> str:
    place, channels = "preprocess/image", plan.shape[-1]
    shape = batch_and(batch, plan.shape)
    last = graph.node("Cast", [plan.name], f"{place}/float", shape=batch_and(batch, plan.raw), to=_FLOAT)
    if plan.resize:
        write = _write_linear if plan.interpolation == "linear" else _write_nearest
        last = write(graph, plan, last, batch)
    if plan.reverse:
        order = graph.integers(f"{place}/bgr", *reversed(range(channels)))
        last = graph.node("Gather", [last, order], f"{place}/reverse", shape=shape, axis=3)
    if plan.multiplier is not None:
        factor = graph.constant(f"{place}/multiplier", np.array(plan.multiplier, np.float32))
        last = graph.node("Mul", [last, factor], f"{place}/multiply", shape=shape)
    if plan.subtrahend is not None:
        mean = graph.constant(f"{place}/subtrahend", np.array(plan.subtrahend, np.float32))
        last = graph.node("Sub", [last, mean], f"{place}/subtract", shape=shape)
    if plan.channels_first:
        turned = [shape[axis] for axis in _TO_NCHW]
        last = graph.node("Transpose", [last], f"{place}/transpose", shape=turned, perm=_TO_NCHW)
    return last


def _write_linear(graph: OnnxGraph, plan: ImagePlan, last: str, batch: Any) -> str:
    """Resize as TFLite does it, with half-pixel centres and without antialiasing."""
    place = "preprocess/image"
    if plan.shape[0] == -1:
        # `axes` would leave the batch alone without this, but came with opset 18.
        size = graph.integers(f"{place}/size", *plan.shape[1:])
        found = graph.node("Shape", [last], f"{place}/shape")
        first = graph.integers(f"{place}/first", 0)
        count = graph.node("Gather", [found, first], f"{place}/batch", axis=0)
        sizes = graph.node("Concat", [count, size], f"{place}/sizes", axis=0)
    else:
        sizes = graph.integers(f"{place}/size", *plan.shape)
    return graph.node(
        "Resize",
        [last, "", "", sizes],
        f"{place}/resize",
        shape=batch_and(batch, plan.shape),
        mode="linear",
        coordinate_transformation_mode="half_pixel",
    )


def _write_nearest(graph: OnnxGraph, plan: ImagePlan, last: str, batch: Any) -> str:
    """Pick the pixels that TFLite picks.

    ONNX's Resize takes others where a centre lies on the edge of two pixels, as for 98 -> 7, because it divides
    by the rounded 1 / 14. Here float32 is rounded where TFLite rounds it: floor((x + 0.5) * own / size).
    """
    place, shape = "preprocess/image", list(batch_and(batch, plan.raw))
    sizes = graph.node("Shape", [last], f"{place}/shape")
    for axis, side in ((1, "rows"), (2, "columns")):
        size, centres = np.float32(plan.shape[axis]), np.arange(plan.shape[axis], dtype=np.float32) + 0.5
        own = graph.node("Gather", [sizes, graph.integers(f"{place}/axis", axis)], f"{place}/own-{side}")
        own = graph.node("Cast", [own], f"{place}/float-{side}", to=_FLOAT)
        ratio = graph.node("Div", [own, graph.constant(f"{place}/{side}", size)], f"{place}/ratio-{side}")
        factors = graph.constant(f"{place}/centres", centres)
        edges = graph.node(
            "Floor", [graph.node("Mul", [factors, ratio], f"{place}/at-{side}")], f"{place}/floor-{side}"
        )
        numbers = graph.node("Cast", [edges], f"{place}/pick-{side}", to=_INT64)
        shape[axis] = plan.shape[axis]
        last = graph.node("Gather", [last, numbers], f"{place}/resize-{side}", shape=shape, axis=axis)
    return last


def _write_samples(graph: OnnxGraph, plan: SamplesPlan, batch: Any) -> str:
    place = "preprocess/audio"
    last = _scaled(graph, plan, batch)
    if plan.drops_batch:
        return graph.node("Squeeze", [last, graph.integers(f"{place}/axes", 0)], f"{place}/squeeze")
    if plan.new_axes:
        axes = graph.integers(f"{place}/axes", *plan.new_axes)
        last = graph.node("Unsqueeze", [last, axes], f"{place}/unsqueeze")
    return last


def _scaled(graph: OnnxGraph, plan: SamplesPlan | LogMelPlan, batch: Any) -> str:
    shape = batch_and(batch, plan.raw)
    last = graph.node("Cast", [plan.name], "preprocess/audio/float", shape=shape, to=_FLOAT)
    scale = graph.constant("preprocess/audio/scale", np.array(SAMPLE_SCALE, np.float32))
    return graph.node("Mul", [last, scale], "preprocess/audio/multiply", shape=shape)


def _write_log_mel(graph: OnnxGraph, plan: LogMelPlan, batch: Any) -> str:
    place, settings, block = "preprocess/audio", plan.settings, plan.block_samples
    last = _scaled(graph, plan, batch)
    if plan.used_samples != plan.raw[1]:
        ends = [
            graph.integers(f"{place}/{name}", end) for name, end in (("from", 0), ("to", plan.used_samples))
        ]
        axis = graph.integers(f"{place}/axis", 1)
        last = graph.node("Slice", [last, *ends, axis], f"{place}/cut")
    blocks = graph.integers(f"{place}/blocks", plan.raw[0], plan.used_samples // block, block)
    last = graph.node("Reshape", [last, blocks], f"{place}/to-blocks")
    last = graph.node("Transpose", [last], f"{place}/turn-blocks", perm=(0, 2, 1))
    rows = plan.fourier()
    kernels = rows.reshape(len(rows), -1, block).transpose(0, 2, 1)
    fourier = graph.constant(f"{place}/fourier-rows", kernels)
    shape = [batch, len(rows), plan.frames]
    strides = [settings.hop_samples // block]
    last = graph.node("Conv", [last, fourier], f"{place}/fourier", shape=shape, strides=strides)
    last = graph.node("Mul", [last, last], f"{place}/square", shape=shape)
    mel = graph.constant(f"{place}/mel-rows", plan.mel()[:, :, None])
    floor = graph.constant(f"{place}/floor", np.full(settings.mel_bins, settings.log_floor, np.float32))
    shape = [batch, settings.mel_bins, plan.frames]
    last = graph.node("Conv", [last, mel, floor], f"{place}/mel", shape=shape)
    last = graph.node("Log", [last], f"{place}/log", shape=shape)
    if not plan.transposed:
        last = graph.node("Transpose", [last], f"{place}/transpose", perm=(0, 2, 1))
    if len(plan.target) > 3:
        to = graph.integers(f"{place}/target", *plan.target)
        last = graph.node("Reshape", [last, to], f"{place}/reshape")
    return last


def _write_output(
    onnx: Any, graph: OnnxGraph, post: PostprocessSettings, value: Any, labels: Sequence[str]
) -> None:
    """Put softmax, class and label behind the first output."""
    name, tensor = value.name, value.type.tensor_type
    is_float = tensor.elem_type == _FLOAT
    if post.softmax:
        last = graph.set_aside(name)
        if not is_float:
            last = graph.node("Cast", [last], "postprocess/float", to=_FLOAT)
        last = graph.node(
            "Softmax", [last], "postprocess/softmax", axis=-1, **({"output": name} if is_float else {})
        )
        if not is_float:
            graph.node("Cast", [last], "postprocess/own-datatype", output=name, to=tensor.elem_type)
    if not (post.argmax or post.labels):
        return
    scores = name if is_float else graph.node("Cast", [name], "postprocess/scores", to=_FLOAT)
    batch = [_dimension(tensor.shape.dim[0])]
    if post.argmax:
        graph.make_free(CLASS_OUTPUT)
    output = CLASS_OUTPUT if post.argmax else None
    number = graph.node("ArgMax", [scores], "postprocess/argmax", output=output, axis=-1, keepdims=0)
    types = onnx.TensorProto
    if post.argmax:
        graph.model.graph.output.append(onnx.helper.make_tensor_value_info(number, types.INT64, batch))
    if post.labels:
        graph.make_free(LABEL_OUTPUT)
        names = graph.constant("postprocess/labels", np.array(labels, np.object_))
        text = graph.node("Gather", [names, number], "postprocess/label", output=LABEL_OUTPUT, axis=0)
        graph.model.graph.output.append(onnx.helper.make_tensor_value_info(text, types.STRING, batch))


def _at_opset(onnx: Any, model: Any) -> Any:
    if onnx_model.opset(model) == 0:
        model.opset_import.append(onnx.helper.make_opsetid("", onnx_model.MIN_OPSET))
    try:
        return onnx_model.upgraded(model)
    except ConversionError as error:
        raise ConversionError(
            f"The model uses opset {onnx_model.opset(model)}, processing needs {onnx_model.MIN_OPSET} or "
            "above, and onnx cannot upgrade it; export it again with a later opset."
        ) from error


def _first_output(onnx: Any, model: Any) -> Any:
    """Return the first output, with its shape inferred where the model does not say it."""
    value = model.graph.output[0]
    dims = value.type.tensor_type.shape.dim
    if dims and dims[len(dims) - 1].HasField("dim_value"):
        return value
    try:
        return onnx.shape_inference.infer_shapes(model).graph.output[0]
    except Exception:
        return value


def _spec(onnx: Any, value: Any) -> TensorSpec:
    if not value.type.HasField("tensor_type"):
        raise ConversionError(
            f"'{value.name}' is no plain tensor, so nothing can be put before or behind it; export the model "
            "with plain tensors (for scikit-learn classifiers: zipmap off)."
        )
    tensor = value.type.tensor_type
    shape = tuple(size if isinstance(size, int) else -1 for size in map(_dimension, tensor.shape.dim))
    return TensorSpec(value.name, _datatype(onnx, tensor.elem_type), shape)


def _datatype(onnx: Any, kind: int) -> Datatype:
    found = DATATYPE_OF_NUMPY.get(onnx.helper.tensor_dtype_to_np_dtype(kind).name)
    if found is None:
        raise ConversionError(
            f"The model has an in- or output of {onnx.TensorProto.DataType.Name(kind)}, which cannot be "
            "served; export it with float32."
        )
    return found


def _dimension(dim: Any) -> str | int | None:
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    return str(dim.dim_param) or None
