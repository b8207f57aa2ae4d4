"""An ONNX model made ready for quantization, and which of its nodes stay in float. Runs in a worker process."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from converters.formats import onnx_model
from converters.quantize import layers, seam
from converters.quantize.layers import Operator
from edge_agent.engines.runtimes import keep_onnxruntime_silent

COMPUTING: Final = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm", "LayerNormalization"})


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model with shapes inferred and BatchNorm folded, which the quantizers take."""

    path: Path
    operators: tuple[Operator, ...]
    """Of the source, which is what people name."""
    model: Any
    """The `onnx.ModelProto` at `path`."""

    def named(self, wanted: frozenset[str]) -> list[str]:
        """Return the names of the nodes that these operators of the source have become."""
        made = {name: node.name for node in self.model.graph.node for name in node.output}
        kept = {node.name for node in self.model.graph.node}
        users = {name: one for one in self.operators for name in one.inputs}
        found = wanted & kept
        for one in self.operators:
            # A fused layer's answer is that of the operator it was fused with: MatMul and Add become Gemm.
            while one.name in wanted and not any(name in made for name in one.outputs):
                after = next((users[name] for name in one.outputs if name in users), None)
                if after is None or not one.computing or after.computing:
                    break
                one = Operator(one.name, after.inputs, after.outputs, computing=True)
            if one.name in wanted:
                found |= {made[name] for name in one.outputs if name in made}
        return sorted(found)


@contextmanager
def prepared(source: Path) -> Iterator[Prepared]:
    """Make the model ready in a folder of its own; raises ConversionError with the library's reason."""
    keep_onnxruntime_silent()
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory(prefix="prepared-") as folder:
        model = named(source)
        upgraded, path = Path(folder, "upgraded.onnx"), Path(folder, "prepared.onnx")
        onnx_model.save(onnx_model.upgraded(model), upgraded)
        with mapping_errors("quantized"):
            # Symbolic shape inference would need sympy, and adds nothing that the quantizer uses here.
            quant_pre_process(str(upgraded), str(path), skip_symbolic_shape=True)
            ready = onnx_model.read(path)
            onnx_model.flatten_gemm_biases(ready)
            onnx_model.name_nodes(ready)
            onnx_model.save(ready, path)
        yield Prepared(path, operators(model), ready)


def named(source: Path) -> Any:
    """Return the `onnx.ModelProto` of a file with a name for every node; raises ModelError."""
    model = onnx_model.read(source)
    onnx_model.name_nodes(model)
    return model


def operators(model: Any) -> tuple[Operator, ...]:
    """Return the nodes of a model whose nodes have names."""
    constants = onnx_model.constant_names(model)
    return tuple(
        Operator(
            node.name,
            tuple(name for name in node.input if name and name not in constants),
            tuple(node.output),
            node.op_type in COMPUTING,
        )
        for node in model.graph.node
        if node.op_type != "Constant"
    )


def in_float(ready: Prepared, patterns: Sequence[str]) -> list[str]:
    """Return the names of the prepared nodes that stay in float; raises ConversionError."""
    return ready.named(layers.in_float(ready.operators, patterns))


def mapping_errors(what: str) -> AbstractContextManager[None]:
    """Turn what onnx and onnxruntime raise into ConversionError."""
    return seam.mapping_errors(f"ONNX Runtime cannot make the {what} variant")
