"""The errors of Edge Agent, a small tree ordered by who can repair them.

Each message is one sentence that says what is wrong and what to do next. Foreign exceptions are turned into
these once, at the seam where a library is called; nothing above the seam catches a foreign exception.
"""

from typing import Literal


def unexpected(error: Exception) -> str:
    """Return what a command line says of an error that nobody foresaw, in one line."""
    said = " ".join(str(error).split())
    return f"Unexpected {type(error).__name__}{': ' if said else ''}{said}; --debug shows where."


class EdgeAgentError(Exception):
    """Base of all errors shown to a person; `exit_code` is the command line's, `status` is HTTP's."""

    exit_code = 1
    status = 500


class RequestError(EdgeAgentError):
    """The caller must change the request."""

    exit_code = 2
    status = 400


class NotFoundError(RequestError):
    """The request names a model, version, task or file that is not here."""

    status = 404


class ForbiddenError(RequestError):
    """Who asks may not do that."""

    status = 403


class UnsupportedError(RequestError):
    """The request is in a form that is not served."""

    status = 415


class DuplicateError(RequestError):
    """What the request gives was taken already; nothing is left to do."""

    status = 409


class TooLateError(RequestError):
    """What the request gives is not taken any more."""

    status = 410


class PayloadTooLargeError(RequestError):
    """The request is larger than the limit that the message names."""

    status = 413


class OperatorError(EdgeAgentError):
    """Who runs this host must act: settings, permissions, disk."""

    exit_code = 2


class SettingsError(OperatorError):
    """A setting is missing, unknown or has a value it cannot have."""


class StateLockedError(OperatorError):
    """Another agent holds the state folder."""


class StorageError(OperatorError):
    """The disk is full, read-only or damaged."""


class ModelError(EdgeAgentError):
    """Who built or published the model must act; the running version is left alone."""

    exit_code = 2


class DocumentError(ModelError):
    """A manifest, deployment or other document is malformed, inconsistent or of an unknown major schema."""


class ArtifactError(ModelError):
    """A file's length or digest is not the one that was signed."""


class ModelLoadError(ModelError):
    """A runtime cannot load or run the model."""


class ModelMemoryError(ModelLoadError):
    """The model did not get the memory that it asked for; where its probe did, the device is short of it."""


class EngineSetupError(ModelLoadError):
    """A runtime is missing or set up wrongly on this host, or a file cannot be read: who runs it must act, no
    model is to blame."""


class GoldenError(ModelError):
    """A model's answers to its golden samples are outside the manifest's tolerances."""


class TrustError(EdgeAgentError):
    """Who keeps the keys or the store must act: bad signature, expired metadata, rollback, wrong root."""


class UnavailableError(EdgeAgentError):
    """Time repairs it: try again after `retry_after_s` seconds."""

    status = 503

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StoreUnreachableError(UnavailableError):
    """The store did not answer, or not with what was asked for; `retry_after_s` is 0 unless it named a time."""

    def __init__(self, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message, retry_after_s)


class DownloadPausedError(UnavailableError):
    """Nothing is wrong: the rest of a download waits until `until_s`, Unix time, and `reason` says what for."""

    def __init__(self, message: str, reason: Literal["budget", "window"], until_s: float | None) -> None:
        super().__init__(message)
        self.reason: Literal["budget", "window"] = reason
        self.until_s = until_s


class DeadlineExceededError(UnavailableError):
    """The request's own deadline passed before an answer was ready."""

    status = 504
