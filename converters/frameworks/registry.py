"""Which module holds which framework."""

import importlib
from typing import Final, cast

from converters.frameworks.base import Framework
from converters.terms import FrameworkName

_MODULES: Final[dict[FrameworkName, str]] = {
    "keras": "converters.frameworks.keras",
    "tf-keras": "converters.frameworks.tf_keras",
    "saved-model": "converters.frameworks.saved_model",
    "torch": "converters.frameworks.torch",
    "scikit-learn": "converters.frameworks.sklearn",
}


def find(name: FrameworkName) -> Framework:
    """Return a framework's module; importing it does not import the framework."""
    return cast(Framework, importlib.import_module(_MODULES[name]))
