"""The recipe: everything that a conversion is told, as a TOML file, as flags or as arguments.

Each section's settings sit beside what uses them. Paths in a file are relative to that file.
"""

import dataclasses
import difflib
import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from converters.checks.gate import Gate
from converters.checks.settings import EvaluateSettings
from converters.data.settings import DataSettings, GenerateSettings
from converters.frameworks.base import Format
from converters.importing import is_importable as is_importable
from converters.processing.settings import PostprocessSettings, PreprocessSettings
from converters.prune.settings import PruneSettings
from converters.quantize.settings import QuantizeSettings
from edge_agent.documents.errors import NotFoundError, RequestError


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to make one version of one model."""

    model: str = ""
    """A file or folder, or `package.module:factory` for PyTorch."""
    weights: str = ""
    """The state dict that goes into what the factory returns."""
    import_from: str = "."
    """Folder that a factory's module is imported from."""
    trust_pickle: bool = False
    """Load files that can run code while they are read: scikit-learn's .joblib, whole PyTorch modules."""
    name: str | None = None
    """The default is the file's name."""
    version: str | None = None
    """The default is the UTC time, YYYYmmdd_HHMMSS."""
    labels: str | tuple[str, ...] | None = None
    """Class names, or a text file with one a line."""
    out: str = "packages"
    to: tuple[Format, ...] | None = None
    """The default is every format that the source can be brought to."""
    precision: tuple[str, ...] | None = None
    """Among fp32, fp16, dynamic, int8 and int16x8; the default is the source as it is, and dynamic."""
    order: tuple[str, ...] | None = None
    """Precisions, best first; the default is what is fastest here, then smallest."""
    data: DataSettings = field(default_factory=DataSettings)
    generate: GenerateSettings = field(default_factory=GenerateSettings)
    prune: PruneSettings | None = None
    quantize: QuantizeSettings = field(default_factory=QuantizeSettings)
    preprocess: PreprocessSettings = field(default_factory=PreprocessSettings)
    postprocess: PostprocessSettings = field(default_factory=PostprocessSettings)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)
    gate: Gate = field(default_factory=Gate)


_PATHS: Final = ("model", "weights", "labels", "out", "import_from")
"""Settings of the recipe itself that hold a path; those of its sections are in `_SECTION_PATHS`."""
_SECTION_PATHS: Final = {"data": ("path", "evaluation", "import_from"), "evaluate": ("import_from",)}


def read_recipe(path: Path) -> Recipe:
    """Read a recipe; raises NotFoundError, or RequestError with the key that is wrong."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise NotFoundError(f"Cannot read the recipe {path}; give a TOML file.") from error
    except tomllib.TOMLDecodeError as error:
        raise RequestError(f"{path} is not TOML: {error}.") from error
    return placed(parse(content, str(path)), path.parent)


def parse(content: Mapping[str, Any], source: str) -> Recipe:
    """Return the validated recipe; raises RequestError with the key that is wrong; `source` names it there."""
    _check_keys(Recipe, content, source, "")
    try:
        return _ADAPTER.validate_python(dict(content))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"] if not str(part).startswith(("tuple[", "function")))
        said = str(first["msg"]).rstrip(".")
        raise RequestError(f"{source}: {place}: {said[:1].lower()}{said[1:]}.") from error


def placed(recipe: Recipe, folder: Path) -> Recipe:
    """Return the recipe with its relative paths taken as relative to a folder."""
    changes: dict[str, Any] = {name: _placed(getattr(recipe, name), folder) for name in _PATHS}
    for section, names in _SECTION_PATHS.items():
        settings: Any = getattr(recipe, section)
        moved = {name: _placed(getattr(settings, name), folder) for name in names}
        changes[section] = dataclasses.replace(settings, **moved)
    return dataclasses.replace(recipe, **changes)


def digest(recipe: Recipe) -> str:
    """Return the sha256 of what a recipe says, without where its files lie."""
    plain = dataclasses.asdict(recipe)
    for name in (*_PATHS, "name", "version"):
        plain.pop(name)
    for section, names in _SECTION_PATHS.items():
        for name in names:
            plain[section].pop(name)
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _placed(value: Any, folder: Path) -> Any:
    if not isinstance(value, str) or not value or is_importable(value):
        return value
    return str(folder / value)


def _check_keys(kind: type[Any], content: Mapping[str, Any], source: str, prefix: str) -> None:
    """Raise RequestError for a key that no setting has, with the nearest one."""
    hints = get_type_hints(kind)
    for key, value in content.items():
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1)
            advice = f"did you mean '{prefix}{near[0]}'?" if near else f"it may have: {', '.join(hints)}."
            raise RequestError(f"{source} has the unknown key '{prefix}{key}'; {advice}")
        section = next(
            (one for one in (hints[key], *get_args(hints[key])) if dataclasses.is_dataclass(one)), None
        )
        if section is not None and isinstance(value, Mapping) and isinstance(section, type):
            _check_keys(section, value, source, f"{prefix}{key}.")


_ADAPTER: Final = TypeAdapter(Recipe)
