"""How long a request may take, and what it hears when it has taken longer."""

from collections.abc import Mapping
from typing import Any

from edge_agent.documents.errors import DeadlineExceededError, UnavailableError
from edge_agent.serving.parameters import natural


def deadline_ns(parameters: Mapping[str, Any], started_ns: int) -> int | None:
    """Return when a request with these parameters is given up: `timeout` is in microseconds, 0 is never.

    Raises RequestError where it is no whole number. Source: Triton Inference Server,
    protocol/extension_schedule_policy.md.
    """
    if "timeout" not in parameters:
        return None
    timeout_us = natural(parameters, "timeout", 0)
    return started_ns + timeout_us * 1000 if timeout_us else None


def exceeded(model: str, timeout_s: float) -> DeadlineExceededError:
    """Return the error of a request whose time is over."""
    return DeadlineExceededError(
        f"Model '{model}' gave no answer within the request's timeout of {timeout_s * 1e3:g} ms; "
        "try again later, or allow more."
    )


def waited_too_long(model: str, limit_s: float) -> UnavailableError:
    """Return the error of a request that has waited for its model to be loaded for as long as it may."""
    return UnavailableError(
        f"Model '{model}' was not loaded within {limit_s:g} s, as memory is short; try again later.", 5.0
    )
