"""Outcomes in and out of HTTP: reading the body of a request, and telling what became of each outcome."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from edge_agent.documents.errors import (
    DuplicateError,
    EdgeAgentError,
    PayloadTooLargeError,
    RequestError,
    TooLateError,
)
from edge_agent.policy import prediction_id
from edge_agent.serving.http_messages import Response
from edge_agent.store.outcomes_db import METRICS_LIMIT, Outcome, Verdict

OUTCOMES_LIMIT: Final = 10_000
"""Outcomes in one request."""
VALUES_LIMIT: Final = 32
"""Values in one outcome."""
FUTURE_TOLERANCE_S: Final = 300
"""How far behind a clock may have been set since it stamped a prediction."""
LARGEST: Final = 1e100
"""Larger values would overflow the sums of squares."""

_METRIC: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
_RESULTS_LIMIT: Final = 1000
"""Refusals that one answer tells of, the first ones."""


class _Body(msgspec.Struct):
    outcomes: list[msgspec.Raw]


class _Item(msgspec.Struct):
    prediction_id: str
    values: dict[str, Any]


_BODIES: Final = msgspec.json.Decoder(_Body)
_ITEMS: Final = msgspec.json.Decoder(_Item)

Result = EdgeAgentError | None
"""What became of one outcome: None if it was taken."""


def parse(body: bytes) -> list[msgspec.Raw]:
    """Return the outcomes of a request, unread. Raises RequestError with one sentence for another body."""
    try:
        outcomes = _BODIES.decode(body).outcomes
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(f"The body is not a list of outcomes: {str(error).rstrip('.')}.") from error
    if not outcomes:
        raise RequestError("The list of outcomes is empty; give at least one.")
    if len(outcomes) > OUTCOMES_LIMIT:
        raise PayloadTooLargeError(
            f"There are {len(outcomes)} outcomes in one request; send up to {OUTCOMES_LIMIT} in each."
        )
    return outcomes


def read(raw: msgspec.Raw, model: str, secret: bytes, now_s: float) -> Outcome:
    """Return an outcome of a prediction that this device made with the model.

    Raises RequestError with one sentence for anything else; whether it is late or taken already is not known
    here.
    """
    try:
        item = _ITEMS.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(
            f"The outcome is not a prediction_id with values: {str(error).rstrip('.')}."
        ) from error
    prediction = prediction_id.decode(secret, item.prediction_id)
    if prediction.model != model:
        raise RequestError(f"The prediction is of model '{prediction.model}', not of '{model}'.")
    if prediction.time_s > now_s + FUTURE_TOLERANCE_S:
        raise RequestError(
            f"The prediction was made {prediction.time_s - now_s:.0f} s in the future; "
            "check this device's clock."
        )
    return Outcome(prediction, _values(item.values))


def explain(outcome: Outcome, verdict: Verdict, window_s: float) -> Result:
    """Return why an outcome was not taken, or None if it was."""
    match verdict:
        case "accepted":
            return None
        case "duplicate":
            names = ", ".join(outcome.values)
            return DuplicateError(
                f"An outcome of this prediction was taken already, of at least one of: {names}."
            )
        case "late":
            return TooLateError(f"The prediction is too old; outcomes are taken within {window_s:g} s of it.")
        case "crowded":
            return RequestError(
                f"Model '{outcome.prediction.model}' has {METRICS_LIMIT} metrics already; use one of them."
            )


def respond(results: Sequence[Result]) -> Response:
    """Return the answer to a request: 202 if any outcome was taken, else the status of the refusals."""
    refused = [(index, error) for index, error in enumerate(results) if error is not None]
    statuses = Counter(error.status for _, error in refused)
    content: dict[str, Any] = {
        "accepted": len(results) - len(refused),
        "duplicates": statuses[DuplicateError.status],
        "refused": [
            {"index": index, "status": error.status, "error": str(error)}
            for index, error in refused[:_RESULTS_LIMIT]
        ],
    }
    if content["accepted"]:
        return Response(202, (msgspec.json.encode(content),))
    status = refused[0][1].status if len(statuses) == 1 else RequestError.status
    first = str(refused[0][1])
    sentence = (
        first if len(refused) == 1 else f"None of the {len(refused)} outcomes was taken. The first: {first}"
    )
    return Response(status, (msgspec.json.encode({"error": sentence, **content}),))


def _values(values: dict[str, Any]) -> dict[str, float]:
    if not 1 <= len(values) <= VALUES_LIMIT:
        raise RequestError(f"An outcome has 1 to {VALUES_LIMIT} values, this one {len(values)}.")
    for name, value in values.items():
        if not _METRIC.fullmatch(name):
            raise RequestError(
                f"'{name[:80]}' cannot name a metric: up to 64 letters, digits, '_', '.' and '-', "
                "the first a letter or '_'."
            )
        # True and False are 1 and 0.
        if not isinstance(value, int | float) or not -LARGEST <= value <= LARGEST:
            raise RequestError(
                f"The value of '{name}' must be a number between -{LARGEST:g} and {LARGEST:g}, true or false."
            )
    return {name: float(value) for name, value in values.items()}
