"""Converters: from a trained model to quantized, checked, packaged versions."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from converters.api import convert
    from converters.report.model import Package, VariantRow

__all__ = ["Package", "VariantRow", "convert"]


def __getattr__(name: str) -> Any:
    """Import what the package offers when it is first asked for.

    The script imports this package before it can answer Ctrl-C, so the package itself imports nothing.
    """
    if name == "convert":
        from converters.api import convert

        return convert
    if name in __all__:
        from converters.report import model

        return getattr(model, name)
    raise AttributeError(f"module 'converters' has no attribute '{name}'")
