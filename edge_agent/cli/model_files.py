"""Model files that are served as they are: what to call them, and what they take and give."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edge_agent.documents.errors import EdgeAgentError, NotFoundError, OperatorError, RequestError
from edge_agent.documents.plan import VersionPlan
from edge_agent.documents.settings import EngineSettings
from edge_agent.engines.base import Engine, find
from edge_agent.engines.blank import zeros

ENGINES: Final = {".onnx": "onnx", ".tflite": "tflite"}
VERSION: Final = "dev"
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Served:
    """One model file that shall be served, and whether a run with zeros works."""

    plan: VersionPlan
    takes_zeros: bool


def named(paths: Sequence[Path], name: str | None) -> list[tuple[str, Path]]:
    """Return each file with its model's name; raises RequestError for unfit and for equal names."""
    if name is not None and len(paths) > 1:
        raise RequestError("--name fits one MODEL; with several, the names come from the files.")
    if name is not None and not _NAME.fullmatch(name):
        raise RequestError(f"'{name}' is no model name; use 1 to 63 of a-z, 0-9 and inner hyphens.")
    pairs = [(name or name_of(path), path) for path in paths]
    seen: dict[str, Path] = {}
    for each, path in pairs:
        if each in seen:
            raise RequestError(f"{seen[each]} and {path} would both be named '{each}'; rename one of them.")
        seen[each] = path
    return pairs


def name_of(path: Path) -> str:
    """Return the model name that a file's name suggests: lower case, hyphens for anything unusual."""
    return re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-")[:63].strip("-") or "model"


def inspect(path: Path, name: str, settings: EngineSettings) -> Served:
    """Load a model file and return its plan; raises an EdgeAgentError that says what is wrong with the file."""
    engine_name = ENGINES.get(path.suffix.lower())
    if engine_name is None:
        raise RequestError(f"{path} is neither .onnx nor .tflite; convert it first with edge-convert.")
    if not path.is_file():
        raise NotFoundError(f"There is no file {path}; check the path.")
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise OperatorError(f"Cannot read {path}: {error.strerror}; check its permissions.") from error
    engine = find(engine_name).load(path, settings)
    try:
        plan = VersionPlan(
            model=name,
            version=VERSION,
            engine=engine_name,
            precision="unknown",
            sha256=digest,
            path=str(path.absolute()),
            size_bytes=path.stat().st_size,
            inputs=engine.inputs,
            outputs=engine.outputs,
        )
        return Served(plan, _takes_zeros(engine))
    finally:
        engine.close()


def _takes_zeros(engine: Engine) -> bool:
    try:
        engine.run(zeros(engine.inputs))
    except EdgeAgentError:
        return False
    return True
