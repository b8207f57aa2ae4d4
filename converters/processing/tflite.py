"""Writes pre- and postprocessing into a TFLite file.

Source: https://github.com/google-ai-edge/LiteRT, `tflite/schema.fbs`. Only operators of version 1 and the two
that resize are added, so that tflite-runtime 2.14 runs them as well as LiteRT.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from converters.errors import ConversionError
from converters.formats import tflite_model
from converters.processing.audio import SAMPLE_SCALE, LogMelPlan, SamplesPlan
from converters.processing.image import ImagePlan
from converters.processing.plan import CLASS_OUTPUT, InputPlan, check_output, plan_inputs, supports
from converters.processing.settings import PostprocessSettings, PreprocessSettings
from converters.processing.signature import Shape
from converters.processing.tflite_graph import TfliteGraph
from edge_agent.documents.tensors import DATATYPE_OF_NUMPY, TensorSpec

_STALE_METADATA: Final = b"TFLITE_METADATA"
"""Says how pixels are to be normalised before the model, which is not true any more."""


def add_processing(
    source: Path, target: Path, pre: PreprocessSettings, post: PostprocessSettings, labels: Sequence[str]
) -> None:
    """Write a copy of a TFLite model that takes what apps have and answers what they show.

    Inputs and outputs keep their names; images become UINT8 [n, height, width, channels], samples INT16
    [n, samples]; an output `class` INT64 [n] is added. The outputs of all added operators and all added
    constants are called `preprocess/...` and `postprocess/...`. Equal arguments give equal bytes.

    Raises RequestError for settings that do not fit the model, ConversionError for a model that cannot be
    processed so and for labels, which TFLite has no text for, ModelError for a damaged file.
    """
    reason = supports("tflite", post)
    if reason is not None:
        raise ConversionError(reason)
    model = tflite_model.read(source)
    graph = TfliteGraph(model)
    inputs = {index: _spec(graph, index) for index in graph.inputs}
    for plan in plan_inputs(pre, list(inputs.values())):
        _write_input(graph, plan, next(index for index, spec in inputs.items() if spec.name == plan.name))
    if not post.is_empty:
        output = graph.outputs[0]
        taken = {graph.name(index) for index in (*graph.inputs, *graph.outputs)}
        check_output(post, _spec(graph, output), labels, taken)
        _check_datatype(graph, output)
        _write_output(graph, post, output)
    graph.finish()
    model.metadata = [entry for entry in model.metadata or () if entry.name != _STALE_METADATA] or None
    target.write_bytes(tflite_model.serialised(model))


def _write_input(graph: TfliteGraph, plan: InputPlan, index: int) -> None:
    """Put a plan's operators in front of an input and declare what it takes now."""
    _check_datatype(graph, index)
    if isinstance(plan, ImagePlan):
        graph.redefine(index, plan.raw, "UINT8", default=plan.shape)
        last = _write_image(graph, plan, index)
    else:
        graph.redefine(index, plan.raw, "INT16")
        write = _write_samples if isinstance(plan, SamplesPlan) else _write_log_mel
        last = write(graph, plan, index)  # type: ignore[arg-type]
    graph.put_in_front(index, last)


def _write_image(graph: TfliteGraph, plan: ImagePlan, index: int) -> int:
    place, shape = "preprocess/image", plan.shape
    last = _cast(graph, index, f"{place}/float", plan.raw, "UINT8")
    if plan.resize:
        last = _write_resize(graph, plan, last)
    if plan.reverse:
        options = graph.schema.GatherOptionsT()
        options.axis = 3
        order = graph.integers(f"{place}/bgr", *reversed(range(shape[-1])))
        last = graph.operator("GATHER", [last, order], f"{place}/reverse", shape, options=options)
    if plan.multiplier is not None:
        factor = graph.constant(f"{place}/multiplier", np.array(plan.multiplier, np.float32))
        options = graph.schema.MulOptionsT()
        last = graph.operator("MUL", [last, factor], f"{place}/multiply", shape, options=options)
    if plan.subtrahend is not None:
        mean = graph.constant(f"{place}/subtrahend", np.array(plan.subtrahend, np.float32))
        options = graph.schema.SubOptionsT()
        last = graph.operator("SUB", [last, mean], f"{place}/subtract", shape, options=options)
    if plan.channels_first:
        last = _transpose(graph, last, place, shape, (0, 3, 1, 2))
    return last


def _write_resize(graph: TfliteGraph, plan: ImagePlan, last: int) -> int:
    place = "preprocess/image"
    is_linear = plan.interpolation == "linear"
    schema = graph.schema
    options = schema.ResizeBilinearOptionsT() if is_linear else schema.ResizeNearestNeighborOptionsT()
    options.halfPixelCenters = True
    size = graph.integers(f"{place}/size", *plan.shape[1:3])
    name = "RESIZE_BILINEAR" if is_linear else "RESIZE_NEAREST_NEIGHBOR"
    return graph.operator(name, [last, size], f"{place}/resize", plan.shape, options=options)


def _write_samples(graph: TfliteGraph, plan: SamplesPlan, index: int) -> int:
    place, shape = "preprocess/audio", plan.raw
    last = _scaled(graph, plan, index)
    if plan.drops_batch:
        options = graph.schema.SqueezeOptionsT()
        options.squeezeDims = [0]
        return graph.operator("SQUEEZE", [last], f"{place}/squeeze", shape[1:], options=options)
    for axis in plan.new_axes:
        where = graph.integers(f"{place}/axis", axis)
        options = graph.schema.ExpandDimsOptionsT()
        shape = (*shape[:axis], 1, *shape[axis:])
        last = graph.operator("EXPAND_DIMS", [last, where], f"{place}/expand", shape, options=options)
    return last


def _write_log_mel(graph: TfliteGraph, plan: LogMelPlan, index: int) -> int:
    place, settings, block = "preprocess/audio", plan.settings, plan.block_samples
    batch, blocks = plan.raw[0], plan.used_samples // block
    last = _scaled(graph, plan, index)
    if plan.used_samples != plan.raw[1]:
        begin = graph.integers(f"{place}/from", 0, 0)
        size = graph.integers(f"{place}/to", -1, plan.used_samples)
        options = graph.schema.SliceOptionsT()
        shape: Shape = (batch, plan.used_samples)
        last = graph.operator("SLICE", [last, begin, size], f"{place}/cut", shape, options=options)
    last = _reshape(graph, last, f"{place}/to-blocks", (batch, 1, blocks, block))
    rows = plan.fourier()
    kernels = graph.constant(f"{place}/fourier-rows", rows.reshape(len(rows), 1, -1, block))
    none = graph.constant(f"{place}/no-bias", np.zeros(len(rows), np.float32))
    shape = (batch, 1, plan.frames, len(rows))
    options = _convolution(graph, settings.hop_samples // block)
    last = graph.operator("CONV_2D", [last, kernels, none], f"{place}/fourier", shape, options=options)
    options = graph.schema.MulOptionsT()
    last = graph.operator("MUL", [last, last], f"{place}/square", shape, options=options)
    mel = graph.constant(f"{place}/mel-rows", plan.mel()[:, None, None])
    floor = graph.constant(f"{place}/floor", np.full(settings.mel_bins, settings.log_floor, np.float32))
    shape = (batch, 1, plan.frames, settings.mel_bins)
    last = graph.operator("CONV_2D", [last, mel, floor], f"{place}/mel", shape, options=_convolution(graph, 1))
    last = graph.operator("LOG", [last], f"{place}/log", shape)
    if plan.transposed:
        last = _transpose(graph, last, place, shape, (0, 1, 3, 2))
    return _reshape(graph, last, f"{place}/reshape", plan.target)


def _write_output(graph: TfliteGraph, post: PostprocessSettings, output: int) -> None:
    """Put softmax and class behind the first output."""
    shape = graph.shape(output)
    if post.softmax:
        options = graph.schema.SoftmaxOptionsT()
        options.beta = 1.0
        scores = graph.set_aside(output)
        last = graph.operator("SOFTMAX", [scores], "postprocess/softmax", shape, options=options)
        # The quantizer knows operators by their output, and this one must keep its name; it has no rule for a
        # cast, so that softmax is seen under its own name and stays in float.
        _cast(graph, last, "", shape, "FLOAT32", output=output)
    if post.argmax:
        graph.make_free(CLASS_OUTPUT)
        axis = graph.integers("postprocess/axis", len(shape) - 1)
        options = graph.schema.ArgMaxOptionsT()
        options.outputType = graph.schema.TensorType.INT64
        number = graph.operator(
            "ARG_MAX", [output, axis], CLASS_OUTPUT, shape[:-1], kind="INT64", options=options
        )
        graph.add_output(number)


def _scaled(graph: TfliteGraph, plan: SamplesPlan | LogMelPlan, index: int) -> int:
    last = _cast(graph, index, "preprocess/audio/float", plan.raw, "INT16")
    scale = graph.constant("preprocess/audio/scale", np.array([SAMPLE_SCALE], np.float32))
    options = graph.schema.MulOptionsT()
    return graph.operator("MUL", [last, scale], "preprocess/audio/multiply", plan.raw, options=options)


def _cast(graph: TfliteGraph, index: int, name: str, shape: Shape, kind: str, output: int | None = None) -> int:
    types = graph.schema.TensorType
    options = graph.schema.CastOptionsT()
    options.inDataType, options.outDataType = getattr(types, kind), types.FLOAT32
    return graph.operator("CAST", [index], name, shape, options=options, output=output)


def _transpose(graph: TfliteGraph, index: int, place: str, shape: Shape, order: tuple[int, ...]) -> int:
    permutation = graph.integers(f"{place}/order", *order)
    turned = tuple(shape[axis] for axis in order)
    options = graph.schema.TransposeOptionsT()
    return graph.operator("TRANSPOSE", [index, permutation], f"{place}/transpose", turned, options=options)


def _reshape(graph: TfliteGraph, index: int, name: str, shape: Shape) -> int:
    options = graph.schema.ReshapeOptionsT()
    options.newShape = list(shape)
    to = graph.integers(f"{name}-to", *shape)
    return graph.operator("RESHAPE", [index, to], name, shape, options=options)


def _convolution(graph: TfliteGraph, stride: int) -> Any:
    options = graph.schema.Conv2DOptionsT()
    options.padding, options.strideH, options.strideW = graph.schema.Padding.VALID, 1, stride
    options.dilationHFactor = options.dilationWFactor = 1
    return options


def _spec(graph: TfliteGraph, index: int) -> TensorSpec:
    kinds = {value: name for name, value in vars(graph.schema.TensorType).items() if isinstance(value, int)}
    kind = kinds[graph.type(index)]
    datatype = DATATYPE_OF_NUMPY.get("object" if kind == "STRING" else kind.lower())
    if datatype is None:
        raise ConversionError(
            f"'{graph.name(index)}' is a tensor of {kind}, which cannot be served; export the model with "
            "float32."
        )
    return TensorSpec(graph.name(index), datatype, graph.shape(index))


def _check_datatype(graph: TfliteGraph, index: int) -> None:
    spec = _spec(graph, index)
    if spec.datatype in ("FP16", "FP64"):
        raise ConversionError(
            f"'{spec.name}' is {spec.datatype}, and processing is written around float32 in TFLite; export the "
            "model with float32."
        )
