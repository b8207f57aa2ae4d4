"""Says in words what a type allows, so that an error about a setting can tell what to write instead."""

import dataclasses
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt

_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def allowed(annotation: Any) -> str:
    """Return what a type allows, for example `a whole number from 0 to 65535`."""
    if get_origin(annotation) is Annotated:
        inner, *bounds = get_args(annotation)
        return f"{allowed(inner)}{_bounds(bounds)}"
    if choices := _choices(annotation):
        return " or ".join(allowed(choice) for choice in choices if choice is not types.NoneType)
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(f'"{value}"' for value in get_args(annotation))
    if get_origin(annotation) is tuple:
        return f"a list of {allowed(get_args(annotation)[0])}"
    if get_origin(annotation) is dict:
        return f"a table of {allowed(get_args(annotation)[1])}"
    if dataclasses.is_dataclass(annotation):
        return "{" + ", ".join(field.name for field in dataclasses.fields(annotation)) + "}"
    return _NAMES[annotation]


def accepts_none(annotation: Any) -> bool:
    """Say whether a value may be absent."""
    return types.NoneType in _choices(annotation)


def accepts_text(annotation: Any) -> bool:
    """Say whether any text, or one of a few words, is a value of the type."""
    return annotation is str or get_origin(annotation) is Literal or str in _choices(annotation)


def _choices(annotation: Any) -> tuple[Any, ...]:
    is_union = get_origin(annotation) in (Union, types.UnionType)
    return get_args(annotation) if is_union else ()


def _bounds(constraints: list[Any]) -> str:
    words = []
    for constraint in constraints:
        match constraint:
            case Ge(ge=low):
                words.append(f"from {low}" if len(constraints) > 1 else f"of at least {low}")
            case Gt(gt=low):
                words.append(f"above {low}")
            case Le(le=high):
                words.append(f"to {high}")
            case Lt(lt=high):
                words.append(f"below {high}")
    return "".join(f" {word}" for word in words)
