"""Edge Agent: signed model updates and local inference for edge devices."""

__version__ = "0.1.0"
