"""What a model file may be, looked at before a runtime opens it: one file that needs no other."""

from pathlib import Path

from edge_agent.engines import onnx_file


def check(engine: str, path: Path) -> None:
    """Raise ModelLoadError for a file of an engine that would have its runtime read other files."""
    if engine == "onnx":
        onnx_file.check(path)
