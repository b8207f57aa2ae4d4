"""Converters: from a trained model to quantized, checked, packaged versions."""
