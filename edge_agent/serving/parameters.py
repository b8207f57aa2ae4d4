"""The parameters of requests and of their tensors, checked when they are read."""

from collections.abc import Mapping
from typing import Any

from edge_agent.documents.errors import RequestError


def flag(parameters: Mapping[str, Any], name: str, default: bool) -> bool:
    """Return a parameter that is true or false; raises RequestError where it is something else."""
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise RequestError(f"The parameter {name} must be true or false.")
    return value


def natural(parameters: Mapping[str, Any], name: str, default: int) -> int:
    """Return a parameter that is a whole number from 0; raises RequestError where it is something else."""
    value = parameters.get(name, default)
    if type(value) is not int or not 0 <= value < 2**63:
        raise RequestError(f"The parameter {name} must be a whole number, 0 or more.")
    return value
