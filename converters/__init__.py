"""Converters: from a trained model to quantized, checked, packaged versions."""

from converters.build import convert
from converters.report import Package, VariantRow

__all__ = ["Package", "VariantRow", "convert"]
