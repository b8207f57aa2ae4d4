"""Reads a document from bytes, and says in one sentence what is wrong with it."""

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from edge_agent.documents.errors import DocumentError, OperatorError

DocumentT = TypeVar("DocumentT", bound=BaseModel)


def read_document(kind: type[DocumentT], content: bytes, source: str, agent_version: str) -> DocumentT:
    """Return the validated document; `source` names it in messages, for example its target path.

    Raises OperatorError if it asks for a newer agent than `agent_version`, DocumentError if it is malformed or
    of a major schema that this code does not know.
    """
    fields = _object(content, source)
    _check_agent(fields.get("min_agent"), source, agent_version)
    _check_schema(fields.get("schema", 1), source, agent_version)
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise DocumentError(f"{source} is not valid: {place + ': ' if place else ''}{first['msg']}.") from error


def is_newer(wanted: str, have: str) -> bool:
    """Say whether the dotted version `wanted` comes after `have`; what is not a number counts as 0."""
    return _numbers(wanted) > _numbers(have)


def _object(content: bytes, source: str) -> dict[str, Any]:
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"{source} is not JSON: {error}.") from error
    if not isinstance(fields, dict):
        raise DocumentError(f"{source} is not a JSON object.")
    return fields


def _check_agent(min_agent: object, source: str, agent_version: str) -> None:
    if isinstance(min_agent, str) and is_newer(min_agent, agent_version):
        raise OperatorError(
            f"{source} needs Edge Agent {min_agent}, this is {agent_version}: update the agent."
        )


def _check_schema(schema: object, source: str, agent_version: str) -> None:
    if schema != 1:
        raise DocumentError(
            f"{source} has schema {json.dumps(schema)}, Edge Agent {agent_version} knows schema 1: update the "
            "agent, or publish the document for it."
        )


def _numbers(version: str) -> tuple[int, ...]:
    numbers = [int(part) if part.isdecimal() and len(part) < 10 else 0 for part in version.split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
