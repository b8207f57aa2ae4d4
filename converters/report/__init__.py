"""The report of a conversion: its values, and how a terminal, a browser and a program get to see them."""

from converters.report.model import (
    Histogram,
    Metric,
    Package,
    Pruning,
    Report,
    SearchStep,
    Sensitivity,
    VariantRow,
)

__all__ = [
    "Histogram",
    "Metric",
    "Package",
    "Pruning",
    "Report",
    "SearchStep",
    "Sensitivity",
    "VariantRow",
]
