"""Errors of the converters, beside those that they share with the agent."""

from typing import Final

from edge_agent.documents.errors import EdgeAgentError, ModelError, OperatorError

_SAID: Final = 300
"""Characters of a foreign message that an error repeats."""


class ConversionError(ModelError):
    """This model cannot be converted as asked; the message says what can be done instead."""


class DataError(ModelError):
    """The calibration or evaluation data does not fit the model."""


class GateError(ModelError):
    """A variant that was asked for lost too much, is too large or too slow."""


class ToolMissingError(OperatorError):
    """A package that this conversion needs is not installed."""


class WorkerError(EdgeAgentError):
    """The process that ran a runtime or a quantizer died or hung."""

    exit_code = 2


def said(error: BaseException) -> str:
    """Return the kind of an error of foreign code and what it says, in one line without a stop."""
    text = " ".join(str(error).split())[:_SAID].rstrip(". :")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, without a stop; its kind where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(". :") if lines else type(error).__name__


def missing(package: str, extra: str = "convert") -> ToolMissingError:
    """Return the error for a package that cannot be imported, with the line that installs it."""
    return ToolMissingError(
        f"{package} is not installed; install it with: pip install 'edge-inference-agent[{extra}]'."
    )
