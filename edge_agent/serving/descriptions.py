"""What the server tells about itself and its models, as plain values that a front end writes down.

Sources: https://github.com/kserve/open-inference-protocol (server and model metadata); Triton Inference Server,
protocol/extension_model_configuration.md, extension_statistics.md, extension_model_repository.md and
model_config.proto.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from edge_agent.documents.tensors import TensorSpec
from edge_agent.serving.loader import LoadedVersion
from edge_agent.telemetry.counters import Counters

EXTENSIONS: Final = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "schedule_policy",
    "sequence",
    "statistics",
)
"""Those of Triton's extensions that always work."""

_PLATFORMS: Final = {"onnx": "onnxruntime_onnx", "tflite": "tflite_tflite"}
_BACKENDS: Final = {"onnx": "onnxruntime", "tflite": "tflite"}


def metadata(loaded: LoadedVersion, versions: Iterable[LoadedVersion], is_unsigned: bool) -> dict[str, Any]:
    """Return the metadata of a model, as one of its versions has them."""
    plan = loaded.plan
    return {
        "name": plan.model,
        "versions": [other.plan.version for other in versions],
        "platform": _PLATFORMS.get(plan.engine, plan.engine),
        "inputs": [_tensor(spec) for spec in loaded.signature.inputs.values()],
        "outputs": [_tensor(spec) for spec in loaded.signature.outputs.values()],
        "parameters": {
            "version": plan.version,
            "precision": plan.precision,
            "sha256": plan.sha256,
            "labels": plan.labels,
            "unsigned": is_unsigned,
            "max_batch": loaded.batch_limit,
            "state": [[pair.input, pair.output] for pair in plan.state],
        },
    }


def config(loaded: LoadedVersion, is_cached: bool) -> dict[str, Any]:
    """Return a version's configuration in Triton's terms, as far as they apply.

    With a known batch limit the shapes are without their first dimension, as there.
    """
    plan, batching = loaded.plan, loaded.batching
    has_batch = loaded.batch_limit > 0
    states = {pair.input for pair in plan.state} | {pair.output for pair in plan.state}
    described: dict[str, Any] = {
        "name": plan.model,
        "platform": _PLATFORMS.get(plan.engine, plan.engine),
        "backend": _BACKENDS.get(plan.engine, plan.engine),
        "version_policy": {"specific": {"versions": [plan.version]}},
        "max_batch_size": loaded.batch_limit,
        "input": _configured(loaded.signature.inputs, states, has_batch),
        "output": _configured(loaded.signature.outputs, states, has_batch),
        "instance_group": [{"name": plan.model, "kind": "KIND_CPU", "count": 1}],
        "default_model_filename": plan.path.rpartition("/")[2],
        "parameters": {
            "precision": {"string_value": plan.precision},
            "sha256": {"string_value": plan.sha256},
        },
        "response_cache": {"enable": is_cached},
    }
    if batching.max_size > 1:
        described["dynamic_batching"] = {
            "preferred_batch_size": list(batching.preferred),
            "max_queue_delay_microseconds": batching.max_delay_ns // 1000,
            "priority_levels": 2,
            "default_priority_level": 2,
        }
    if plan.state:
        described["sequence_batching"] = {
            "state": [
                {
                    "input_name": pair.input,
                    "output_name": pair.output,
                    "data_type": f"TYPE_{_type(loaded.signature.inputs[pair.input])}",
                    "dims": list(loaded.signature.inputs[pair.input].shape),
                }
                for pair in plan.state
            ]
        }
    return described


def statistics(versions: Iterable[LoadedVersion], counters: Counters) -> dict[str, Any]:
    """Return what Triton's statistics extension tells of these versions."""
    plans = [loaded.plan for loaded in versions]
    return {
        "model_stats": [
            counters.of(plan.model, plan.version).statistics.to_builtins(plan.model, plan.version)
            for plan in plans
        ]
    }


def index(versions: Iterable[LoadedVersion]) -> list[dict[str, str]]:
    """Return the repository's index: the versions that are served, and which of them are not in memory now."""
    entries = []
    for loaded in versions:
        state, reason = loaded.state
        entries.append(
            {"name": loaded.plan.model, "version": loaded.plan.version, "state": state, "reason": reason}
        )
    return entries


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": spec.shape}


def _configured(specs: Mapping[str, TensorSpec], states: set[str], has_batch: bool) -> list[dict[str, Any]]:
    return [_config_tensor(spec, has_batch) for spec in specs.values() if spec.name not in states]


def _config_tensor(spec: TensorSpec, has_batch: bool) -> dict[str, Any]:
    dims = list(spec.shape[1:] if has_batch else spec.shape)
    described: dict[str, Any] = {"name": spec.name, "data_type": f"TYPE_{_type(spec)}", "dims": dims}
    if not dims:
        # A tensor without dimensions has one in Triton's terms, which is taken off by the reshape.
        described |= {"dims": [1], "reshape": {"shape": []}}
    return described


def _type(spec: TensorSpec) -> str:
    return "STRING" if spec.datatype == "BYTES" else spec.datatype
