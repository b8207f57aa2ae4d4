"""Which versions of which tools a conversion is made with: a manifest records them."""

import platform
from importlib import metadata
from typing import Final

_TOOLS: Final = (
    "edge-inference-agent",
    "numpy",
    "onnx",
    "onnxruntime",
    "ai-edge-litert",
    "tflite-runtime",
    "litert-quantizer",
    "backports.zstd",
    "flatbuffers",
    "pillow",
    "protobuf",
)
_FRAMEWORK_TOOLS: Final = {
    "keras": ("keras", "tensorflow", "tf2onnx"),
    "tf-keras": ("tf-keras", "tensorflow", "tensorflow-model-optimization", "tf2onnx"),
    "saved-model": ("tensorflow", "tf2onnx"),
    "torch": ("torch", "onnxscript", "litert-torch"),
    "scikit-learn": ("scikit-learn", "skl2onnx"),
}


def versions(framework: str) -> dict[str, str]:
    """Return the versions of the tools that a conversion from this framework uses, by distribution."""
    found = {"python": platform.python_version()}
    for tool in (*_TOOLS, *_FRAMEWORK_TOOLS.get(framework, ())):
        try:
            found[tool] = metadata.version(tool)
        except metadata.PackageNotFoundError:
            continue
    return found
