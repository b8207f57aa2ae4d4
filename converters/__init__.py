"""Converters: from a trained model to quantized, checked, packaged versions."""

from converters.api import convert
from converters.report.model import Package, VariantRow

__all__ = ["Package", "VariantRow", "convert"]
