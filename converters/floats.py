"""From the model that was trained to its float files, one a format; every other variant is made of those."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, get_args

from converters import arrays
from converters.data.columns import Columns, example, training_arrays
from converters.errors import ConversionError
from converters.formats.sources import SourceModel, read_source
from converters.frameworks import exporting, identify, registry
from converters.frameworks.base import Advanced, Format, FrameworkName, Origin
from converters.importing import is_importable
from converters.processing.settings import PreprocessSettings
from converters.recipe import Recipe
from converters.workers import messages
from converters.workers.worker import worker
from edge_agent.documents.errors import ModelError, RequestError

FORMATS: Final[tuple[Format, ...]] = get_args(Format)

_InputNames = Callable[[], tuple[str, ...]]
_DoExport = Callable[[messages.Export], messages.Exported]

_ONLY_ONNX: Final[tuple[FrameworkName, ...]] = ("scikit-learn",)
_PICKLED: Final[tuple[FrameworkName, ...]] = ("scikit-learn", "torch")
"""Frameworks whose files may be pickles."""
_ARTICLES: Final = {"onnx": "An ONNX", "tflite": "A TFLite"}
_NO_WAY: Final = {
    "onnx": "An ONNX file cannot become TFLite; convert the Keras or PyTorch model that it came from, which "
    "can become both.",
    "tflite": "A TFLite file cannot become ONNX here; convert the Keras model or SavedModel that it came from, "
    "which can become both.",
    "scikit-learn": "A scikit-learn model cannot become TFLite; ask for --to onnx, which ONNX Runtime runs on "
    "devices.",
}


@dataclass(frozen=True, slots=True)
class Floats:
    """The float files of one model."""

    framework: str
    sha256: str
    """Of the source: the file or folder that was given; of a live object's first float file."""
    size_bytes: int
    plain: Mapping[Format, SourceModel]
    """As it was trained, by format."""
    pruned: Mapping[Format, SourceModel] = field(default_factory=dict)
    """Pruned and fine-tuned; empty when nothing was pruned."""
    sparsity: float = 0.0
    """Share of zeros, or of channels that are gone."""
    layers: Mapping[str, float] = field(default_factory=dict)
    """The same by layer."""
    notes: tuple[str, ...] = ()

    @property
    def current(self) -> Mapping[Format, SourceModel]:
        """What variants are made of."""
        return self.pruned or self.plain


def float_files(
    recipe: Recipe, live: object | None, columns: Columns | None, folder: Path, advanced: Advanced
) -> Floats:
    """Return the source's float files; ONNX and TFLite files are taken as they are, other models are exported.

    Raises RequestError or ModelError when the source is none, cannot become what is asked for, or cannot be
    pruned.
    """
    if live is None and not is_importable(recipe.model):
        path = Path(recipe.model)
        framework = identify.identify_file(path)
        if recipe.weights:
            raise RequestError(
                f"{path} is a model by itself, so --weights does not go with it; name the factory that they "
                "belong to as package.module:factory, or leave them out."
            )
        if framework is None:
            return _as_it_is(path, recipe)
    elif live is None:
        framework = "torch"
    else:
        framework = identify.identify_live(live)
    _check_targets(framework, recipe.to)
    return _Export(recipe, framework, live, columns, folder, advanced).run()


def _as_it_is(path: Path, recipe: Recipe) -> Floats:
    source = read_source(path)
    engine: Format = "onnx" if source.engine == "onnx" else "tflite"
    if recipe.prune is not None:
        raise ConversionError(
            f"{_ARTICLES[engine]} file cannot be fine-tuned, so it cannot be pruned; give the Keras or PyTorch "
            "model that it came from."
        )
    _check_targets(engine, recipe.to)
    return Floats(engine, source.sha256, source.size_bytes, {engine: source})


def _check_targets(framework: str, to: Sequence[Format] | None) -> None:
    if to is not None and not to:
        raise RequestError(f"No target was given; choose among {', '.join(FORMATS)}.")
    for target in to or ():
        if target not in FORMATS:
            raise RequestError(f"There is no target '{target}'; choose among {', '.join(FORMATS)}.")
    possible = formats_of(framework)
    if to is not None and any(target not in possible for target in to):
        raise ConversionError(_NO_WAY[framework])


def formats_of(framework: str) -> tuple[Format, ...]:
    """Return what a framework's models, or files of a format, can be brought to."""
    if framework in FORMATS:
        return ("onnx",) if framework == "onnx" else ("tflite",)
    return ("onnx",) if framework in _ONLY_ONNX else FORMATS


@dataclass(frozen=True, slots=True)
class _Export:
    """One export: what it needs, and its steps."""

    recipe: Recipe
    framework: FrameworkName
    live: object | None
    columns: Columns | None
    folder: Path
    advanced: Advanced

    def run(self) -> Floats:
        """Export; a target that nobody asked for by name is left out where it fails."""
        with self._exporter() as (input_names, export):
            data = self._write_data(input_names())
            exported = export(self._ask(data))
        if self.recipe.to is not None and exported.failures:
            raise ConversionError(next(iter(exported.failures.values())))
        made = [target for target in self._targets() if target not in exported.failures]
        plain = {target: _exported(self._file(target)) for target in made}
        pruned = {target: _exported(self._file(target, pruned=True)) for target in made if self.recipe.prune}
        digest, size_bytes = self._digest(plain)
        return Floats(
            self.framework,
            digest,
            size_bytes,
            plain,
            pruned,
            exported.sparsity,
            exported.layers,
            (
                *self._trusted(),
                *(f"There is no {target} file: {said}" for target, said in exported.failures.items()),
            ),
        )

    def _trusted(self) -> tuple[str, ...]:
        """Warn of a pickle that was loaded."""
        recipe = self.recipe
        loaded = self.live is None and self.framework in _PICKLED and not is_importable(recipe.model)
        if not (recipe.trust_pickle and loaded):
            return ()
        return (
            f"{Path(recipe.model).name} was loaded with --trust-pickle: whatever code was in it has run with "
            "your rights, so do this only with files that you made.",
        )

    @contextmanager
    def _exporter(self) -> Iterator[tuple[_InputNames, _DoExport]]:
        """Give the two calls on the model: where a live object is, or in a worker that loads the file."""
        framework = registry.find(self.framework)
        if self.live is not None:
            live = self.live
            yield (
                lambda: framework.input_names(live),
                lambda ask: exporting.write(framework, live, ask, self.advanced),
            )
            return
        origin = self._origin()
        with worker(self.folder) as child:
            yield (
                lambda: child.ask(messages.InputNames(origin=origin), messages.Named).names,
                lambda ask: child.ask(ask, messages.Exported, self.advanced),
            )

    def _ask(self, data: Path | None) -> messages.Export:
        return messages.Export(
            origin=self._origin(),
            targets={target: str(self._file(target)) for target in self._targets()},
            data="" if data is None else str(data),
            prune=self.recipe.prune,
            pruned_targets={target: str(self._file(target, pruned=True)) for target in self._targets()},
        )

    def _write_data(self, names: tuple[str, ...]) -> Path | None:
        """Write example inputs, and with pruning all samples and targets, for the process that exports."""
        shapes, raw = self.recipe.generate.shapes, self.recipe.preprocess != PreprocessSettings()
        if self.recipe.prune is not None and raw:
            raise ConversionError(
                "Pruning fine-tunes the model with what it takes, but with [preprocess] the data is what apps "
                "send; build the pruned model without [preprocess] first, then add that to its file."
            )
        if self.recipe.prune is not None and self.columns is not None:
            inputs, targets = training_arrays(self.columns, names, channels_first=self._channels_first)
            content = inputs if targets is None else {**inputs, exporting.TARGETS: targets}
        elif self.columns is not None and not shapes and not raw:
            content = example(self.columns, names, channels_first=self._channels_first)
        elif shapes:
            content = exporting.example_of(shapes)
        else:
            return None
        path = self.folder / "export.npz"
        arrays.write_arrays(path, content)
        return path

    @property
    def _channels_first(self) -> bool:
        """PyTorch's models take images so, Keras' the other way round."""
        return self.framework == "torch"

    def _targets(self) -> tuple[Format, ...]:
        return self.recipe.to or formats_of(self.framework)

    def _file(self, target: Format, *, pruned: bool = False) -> Path:
        return self.folder / f"{'pruned' if pruned else 'float'}.{target}"

    def _origin(self) -> Origin:
        recipe = self.recipe
        absolute = recipe.model if is_importable(recipe.model) else str(Path(recipe.model).absolute())
        weights = str(Path(recipe.weights).absolute()) if recipe.weights else ""
        folder = str(Path(recipe.import_from).absolute())
        return Origin(self.framework, absolute, weights, folder, trust_pickle=recipe.trust_pickle)

    def _digest(self, plain: Mapping[Format, SourceModel]) -> tuple[str, int]:
        """Return sha256 and bytes of what was given; of a live object, of its first float file."""
        for given in (self.recipe.model, self.recipe.weights):
            if self.live is None and given and Path(given).exists():
                return digest_of(Path(given))
        first = next(iter(plain.values()))
        return first.sha256, first.size_bytes


def _exported(path: Path) -> SourceModel:
    """Read what was exported; what is wrong is said of the model: nobody knows of its temporary file."""
    try:
        return read_source(path)
    except ModelError as error:
        raise ModelError(str(error).replace(str(path), "The model")) from error


def digest_of(path: Path) -> tuple[str, int]:
    """Return sha256 and bytes of a file, or of a folder's files with their relative names, in order."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size
    digest, size_bytes = hashlib.sha256(), 0
    for member in sorted(one for one in path.rglob("*") if one.is_file()):
        sha256, length = digest_of(member)
        digest.update(f"{member.relative_to(path)}\0{sha256}\n".encode())
        size_bytes += length
    return digest.hexdigest(), size_bytes
