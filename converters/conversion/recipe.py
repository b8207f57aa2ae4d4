"""The recipe: everything that a conversion is told, as a TOML file, as flags or as arguments.

Each section's settings sit beside what uses them. Paths in a file are relative to that file.
"""

import dataclasses
import difflib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, get_args, get_type_hints

from annotated_types import Ge, Le
from pydantic import TypeAdapter, ValidationError

from converters.checks.gate import Gate
from converters.checks.settings import EvaluateSettings
from converters.data.settings import DataSettings, GenerateSettings
from converters.importing import is_importable
from converters.processing.settings import PostprocessSettings, PreprocessSettings
from converters.prune.settings import PruneSettings
from converters.quantize.settings import QuantizeSettings
from converters.terms import Format
from edge_agent.documents.errors import NotFoundError, RequestError


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to make one version of one model."""

    model: str = ""
    """A model's file or folder, or `package.module:factory` for PyTorch."""
    weights: str = ""
    """The state dict that goes into what the factory returns."""
    import_from: str = "."
    """Folder that every `package.module` and the classes of a pickled model are imported from, unless a section
    names its own."""
    trust_pickle: bool = False
    """Load files that can run code while they are read: scikit-learn's .joblib, whole PyTorch modules."""
    name: str | None = None
    """What the model is called; left out, the file's name."""
    version: str | None = None
    """What the version is called; left out, the UTC time as YYYYmmdd_HHMMSS."""
    labels: str | tuple[str, ...] | None = None
    """Class names, or a text file with one a line; left out, those that the data names."""
    max_batch: Annotated[int, Ge(1), Le(65_536)] | None = None
    """Largest first dimension of one run, where it is a batch whose rows have nothing to do with each other:
    devices then run requests together, and large ones in slices."""
    state: tuple[tuple[str, str], ...] = ()
    """A streaming model's states, `[["input", "output"]]`: what a run gives as the output is the next run's
    input, which devices keep."""
    out: str = "packages"
    """Folder for packages: one lies at `<out>/<name>/<version>`."""
    to: tuple[Format, ...] | None = None
    """Formats; left out, every one that the source can be brought to."""
    precision: tuple[str, ...] | None = None
    """Among `fp32`, `fp16`, `dynamic`, `int8` and `int16x8`; left out, the source as it is, and dynamic."""
    order: tuple[str, ...] | None = None
    """Precisions, best first: a device takes the first that it can run; left out, what is fastest here, then
    smallest."""
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
    return parse(read_content(path), str(path))


def read_content(path: Path) -> dict[str, Any]:
    """Return what a recipe file holds, unchecked, with its relative paths taken as relative to its folder."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise NotFoundError(f"Cannot read the recipe {path}; give a TOML file.") from error
    except tomllib.TOMLDecodeError as error:
        raise RequestError(f"{path} is not TOML: {error}.") from error
    content.setdefault("import_from", ".")
    _place(content, _PATHS, path.parent)
    for section, names in _SECTION_PATHS.items():
        if isinstance(settings := content.get(section), dict):
            _place(settings, names, path.parent)
    return content


def merged(content: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `content` with the values of `over` in place of its own, section by section."""
    result = dict(content)
    for key, value in over.items():
        own = result.get(key)
        result[key] = merged(own, value) if isinstance(own, Mapping) and isinstance(value, Mapping) else value
    return result


def parse(content: Mapping[str, Any], source: str) -> Recipe:
    """Return the validated recipe; raises RequestError with the key that is wrong; `source` names it there."""
    _check_keys(Recipe, content, source, "")
    try:
        return _ADAPTER.validate_python(_with_folder(content))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"] if not str(part).startswith(("tuple[", "function")))
        said = str(first["msg"]).rstrip(".")
        raise RequestError(f"{source}: {place}: {said[:1].lower()}{said[1:]}.") from error


def checked(recipe: Recipe, source: str) -> Recipe:
    """Return a recipe that was put together by a program, validated; raises as `parse` does."""
    return parse(dataclasses.asdict(recipe), source)


def described(recipe: Recipe) -> dict[str, Any]:
    """Return what a recipe says beyond the defaults, as plain values, with files by their names alone.

    Where files lie says nothing of what is made from them, and a manifest is read by others.
    """
    plain = _beyond(_plain(recipe), _plain(Recipe()))
    for place, names in ({"": _PATHS} | _SECTION_PATHS).items():
        section = plain if not place else plain.get(place, {})
        for name in names:
            value = section.get(name)
            if name in ("out", "import_from"):
                section.pop(name, None)
            elif isinstance(value, str) and not is_importable(value):
                section[name] = Path(value).name
    return {key: value for key, value in plain.items() if value != {}}


def _plain(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe's settings as JSON has them, with lists for tuples."""
    content: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(recipe)))
    return content


def _beyond(plain: dict[str, Any], default: Any) -> dict[str, Any]:
    if not isinstance(default, dict):
        return plain
    found: dict[str, Any] = {}
    for key, value in plain.items():
        if value == default.get(key):
            continue
        found[key] = _beyond(value, default.get(key)) if isinstance(value, dict) else value
    return found


def _place(content: dict[str, Any], names: tuple[str, ...], folder: Path) -> None:
    for name in names:
        value = content.get(name)
        if isinstance(value, str) and value and not is_importable(value):
            content[name] = str(folder / value)


def _with_folder(content: Mapping[str, Any]) -> dict[str, Any]:
    """Let sections import from the recipe's own folder, unless they name another."""
    found = dict(content)
    for section, names in _SECTION_PATHS.items():
        settings = found.get(section, {})
        if "import_from" in names and "import_from" in found and isinstance(settings, Mapping):
            found[section] = {"import_from": found["import_from"], **settings}
    return found


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
