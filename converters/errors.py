"""Errors of the converters, beside those that they share with the agent."""

from edge_agent.documents.errors import EdgeAgentError, ModelError, OperatorError


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


def missing(package: str, extra: str = "convert") -> ToolMissingError:
    """Return the error for a package that cannot be imported, with the line that installs it."""
    return ToolMissingError(
        f"{package} is not installed; install it with: pip install 'edge-inference-agent[{extra}]'."
    )
