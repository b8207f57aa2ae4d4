"""Requests to try on a model: zeros in its shapes, as lines that can be pasted into a shell."""

import json
import math
import shlex
from collections.abc import Sequence
from typing import Any, Final

from edge_agent.documents.tensors import WITHOUT_JSON, TensorSpec

MAX_INLINE_ELEMENTS: Final = 64
"""Above this, a line makes its numbers instead of spelling them out."""
MAX_JSON_ELEMENTS: Final = 1_000_000
"""Above this, JSON is no way to send a tensor."""


def zero_shape(spec: TensorSpec) -> tuple[int, ...]:
    """Return the shape of an example: 1 for each free dimension."""
    return tuple(1 if dimension == -1 else dimension for dimension in spec.shape)


def curl_line(model: str, inputs: Sequence[TensorSpec], base_url: str, socket: str | None = None) -> str | None:
    """Return a command that infers with curl, or None where JSON cannot carry the inputs.

    With `socket`, by way of that Unix socket. FP16 and BF16 have no form in JSON.
    """
    elements = sum(math.prod(zero_shape(spec)) for spec in inputs)
    if elements > MAX_JSON_ELEMENTS or any(spec.datatype in WITHOUT_JSON for spec in inputs):
        return None
    over = f" --unix-socket {shlex.quote(socket)}" if socket else ""
    url = shlex.quote(f"{base_url}/v2/models/{model}/infer")
    if elements <= MAX_INLINE_ELEMENTS:
        return f"curl -s{over} {url} -d {shlex.quote(_body(inputs))}"
    script = f"import json; print(json.dumps({_body_expression(inputs)}))"
    return f"python3 -c {shlex.quote(script)} | curl -s{over} {url} -d @-"


def _body(inputs: Sequence[TensorSpec]) -> str:
    return json.dumps(
        {"inputs": [_head(spec) | {"data": [_zero(spec)] * math.prod(zero_shape(spec))} for spec in inputs]}
    )


def _body_expression(inputs: Sequence[TensorSpec]) -> str:
    """Return Python source whose value is the body."""
    tensors = ", ".join(
        f'{json.dumps(_head(spec))[:-1]}, "data": [{_zero(spec)!r}] * {math.prod(zero_shape(spec))}}}'
        for spec in inputs
    )
    return f'{{"inputs": [{tensors}]}}'


def _head(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(zero_shape(spec))}


def _zero(spec: TensorSpec) -> Any:
    match spec.datatype:
        case "BOOL":
            return False
        case "BYTES":
            return ""
        case "FP32" | "FP64":
            return 0.0
        case _:
            return 0
