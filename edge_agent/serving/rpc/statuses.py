"""The errors of the agent as statuses of gRPC."""

import math
from collections.abc import Mapping
from typing import Final

import grpc

from edge_agent.documents.errors import EdgeAgentError, UnavailableError

_CODES: Final[Mapping[int, grpc.StatusCode]] = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.ALREADY_EXISTS,
    410: grpc.StatusCode.FAILED_PRECONDITION,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}


class RefusedError(Exception):
    """The end of a call that has no answer: a status, one sentence, and trailing metadata."""

    def __init__(self, code: grpc.StatusCode, message: str, metadata: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.metadata = metadata


def code_of(status: int) -> grpc.StatusCode:
    """Return the code that says what a status of HTTP does."""
    return _CODES.get(status, grpc.StatusCode.INTERNAL)


def refusal(error: EdgeAgentError) -> RefusedError:
    """Return how a call ends that failed with this error; where time repairs it `retry-after` says how much."""
    metadata: tuple[tuple[str, str], ...] = ()
    if isinstance(error, UnavailableError):
        metadata = (("retry-after", str(math.ceil(error.retry_after_s))),)
    return RefusedError(code_of(error.status), str(error), metadata)
