"""What a version is called, when it was made and what is known of its classes."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from converters.conversion.recipe import Recipe
from converters.importing import is_importable
from edge_agent.documents.errors import NotFoundError, RequestError
from edge_agent.documents.manifest import ModelName, Version

EPOCH: Final = "SOURCE_DATE_EPOCH"
"""Environment variable that makes builds reproducible; https://reproducible-builds.org/specs/source-date-epoch/."""

_RULES: Final = {
    "name": "1 to 63 of a-z, 0-9 and inner hyphens",
    "version": "1 to 64 of letters, digits and _ . + -",
}


@dataclass(frozen=True, slots=True)
class Identity:
    """A version's name, number, time and class names, and what its recipe says of batches and states."""

    name: str
    version: str
    timestamp: datetime
    labels: tuple[str, ...]
    max_batch: int | None = None
    state: tuple[tuple[str, str], ...] = ()


def identify(recipe: Recipe, live_name: str, classes: Sequence[str]) -> Identity:
    """Return the identity of a new version.

    A live object's class or own name stands in where the recipe has no name, classes that the data names where
    it has no labels. Raises RequestError for a name or version that cannot be one, NotFoundError for a file of
    labels that cannot be read.
    """
    now = timestamp()
    return Identity(
        name=_checked(ModelName, "name", recipe.name or _slug(_stem(recipe.model) or live_name)),
        version=_checked(Version, "version", recipe.version or now.strftime("%Y%m%d_%H%M%S")),
        timestamp=now,
        labels=_class_names(recipe.labels) or tuple(classes),
        max_batch=recipe.max_batch,
        state=recipe.state,
    )


def is_reproducible() -> bool:
    """Say whether times and what follows from them stay out of what is written."""
    return EPOCH in os.environ


def timestamp() -> datetime:
    """Return the time to write down, UTC; raises RequestError when SOURCE_DATE_EPOCH is not a time."""
    epoch = os.environ.get(EPOCH)
    if epoch is None:
        return datetime.now(UTC).replace(microsecond=0)
    try:
        return datetime.fromtimestamp(int(epoch), UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise RequestError(f"{EPOCH} is '{epoch}'; it should be a number of seconds since 1970.") from error


def _stem(model: str) -> str:
    return model.partition(":")[2] if is_importable(model) else Path(model).stem


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:63].strip("-")


def _checked(kind: Any, what: str, value: str) -> str:
    try:
        return str(TypeAdapter(kind).validate_python(value))
    except ValidationError as error:
        raise RequestError(
            f"'{value}' cannot be a {what}: it takes {_RULES[what]}; give another --{what}."
        ) from error


def _class_names(labels: str | Sequence[str] | None) -> tuple[str, ...]:
    if labels is None:
        return ()
    if not isinstance(labels, str):
        return tuple(labels)
    try:
        lines = Path(labels).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise NotFoundError(
            f"Cannot read labels from {labels}; give a UTF-8 text file with one name a line."
        ) from error
    return tuple(line.strip() for line in lines if line.strip())
