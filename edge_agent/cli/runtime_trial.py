"""Loads and runs a tiny model on one runtime: `python -m edge_agent.cli.runtime_trial RUNTIME`.

`edge-agent doctor` runs it as a child, because a runtime that does not fit the machine ends its process.
"""

import base64
import sys
import tempfile
from pathlib import Path
from typing import Final

import numpy as np

from edge_agent.documents.errors import EdgeAgentError, ModelLoadError
from edge_agent.documents.settings import EngineSettings
from edge_agent.engines.base import find

RUNTIMES: Final = {"onnxruntime": "onnx", "ai-edge-litert": "tflite", "tflite-runtime": "tflite"}
"""The engine of each runtime, by the name of its distribution."""

# y = x + x on FP32 [2]: the smallest models that make each runtime compute.
_MODELS: Final = {
    "onnx": "CAcSADo1Cg4KAXgKAXgSAXkiA0FkZBIBZ1oPCgF4EgoKCAgBEgQKAggCYg8KAXkSCgoICAESBAoCCAJCBAoAEA0=",
    "tflite": (
        "GAAAAFRGTDMAAA4AFAAQAAwACAAAAAQADgAAABAAAAAYAAAA4AAAAAMAAAABAAAABAAAACj///8BAAAAEAAAAAwAFAAQAAwACAAEAAwA"
        "AAAQAAAAUAAAAFQAAABYAAAAAQAAABQAAAAAAA4AFAAAABAADAALAAQADgAAABAAAAAAAAALDAAAABAAAACA////AQAAAAEAAAACAAAA"
        "AAAAAAAAAAABAAAAAQAAAAEAAAAAAAAAAgAAADAAAAAEAAAA5P///wgAAAAMAAAAAQAAAHkAAAABAAAAAgAAAAwADAAIAAAAAAAEAAwA"
        "AAAIAAAADAAAAAEAAAB4AAAAAQAAAAIAAAABAAAACAAAAAQABAAEAAAA"
    ),
}


def attempt(runtime: str) -> str:
    """Run the tiny model on a runtime and return the runtime's name and version; raises ModelLoadError."""
    kind = RUNTIMES[runtime]
    settings = EngineSettings(threads=1)
    if runtime == "ai-edge-litert":
        settings = EngineSettings(threads=1, tflite_runtime="ai-edge-litert")
    elif runtime == "tflite-runtime":
        settings = EngineSettings(threads=1, tflite_runtime="tflite-runtime")
    engine_class = find(kind)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"trial.{kind}"
        path.write_bytes(base64.b64decode(_MODELS[kind]))
        engine = engine_class.load(path, settings)
        got = engine.run({"x": np.array([1, 2], np.float32)})["y"]
        engine.close()
    if got.tolist() != [2.0, 4.0]:
        raise ModelLoadError(f"{runtime} computes wrong numbers; install it again.")
    return engine_class.runtime(settings) or runtime


def main() -> int:
    """Print what ran, or why it does not."""
    try:
        sys.stdout.write(attempt(sys.argv[1]) + "\n")
    except EdgeAgentError as error:
        sys.stdout.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
