"""From a subject to files: the one place of the benchmark that calls the converter."""

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.converters.subjects import PER_TENSOR, PRUNED, REMEDIES, SEARCH, Case, Subject
from edge_agent.documents.errors import EdgeAgentError
from edge_agent.documents.manifest import blob_path

NO_LIMIT = 100.0
"""Points that may be lost: the benchmark measures what the converter's gate would refuse."""
SEARCH_DROP = 0.5
PRUNED_SHARE = 0.8
FLOAT = "fp32"
REFUSED = "refused by the converter"

_SPECIAL = {PER_TENSOR: "dynamic", PRUNED: "int8"} | dict.fromkeys(REMEDIES, "int8")
"""The precision of each variant that is more than a precision."""

_SETTINGS = {PER_TENSOR: {"per_channel": False}} | REMEDIES

# Some eight passes over animal-mnist's training samples, the last three with the full sparsity.
_PRUNE_END_STEP = 500
_PRUNE_STEPS = 800
_PRUNE_BATCH = 64


@dataclass(frozen=True)
class Built:
    """A file that the converter made."""

    variant: str
    """A precision, or one of `_SPECIAL`."""
    format: str
    path: Path
    runtimes: tuple[str, ...]
    """Those that the manifest offers it to; none means all."""
    note: str = ""
    """REFUSED where the converter itself packages no such file."""


@dataclass(frozen=True)
class Refused:
    """A file that the converter did not make, and why."""

    variant: str
    format: str
    reason: str


Made = Built | Refused


def build(case: Case, subject: Subject, folder: Path, *, quick: bool = False) -> list[Made]:
    """Have every variant of a case made; what the converter refuses is told with its reason.

    Where it refuses int8 for its answers, that file is made all the same, without the check, so that what it
    loses is measured; and what a user may try next is tried: other ways to calibrate, and the search.
    """
    made: list[Made] = []
    for form in case.formats:
        made += _plain(subject, form, case.variants(form), folder)
        refused = [
            one for one in made if isinstance(one, Refused) and (one.format, one.variant) == (form, "int8")
        ]
        if refused:
            found = _unchecked(subject, form, folder, made)
            made += found
            made += (
                _remedies(case, subject, form, folder) if any(isinstance(one, Built) for one in found) else []
            )
    for special in (PER_TENSOR, SEARCH, PRUNED):
        formats = [form for form in case.formats if special in case.variants(form)]
        if formats:
            made += _attempt(subject, formats, special, folder / special.replace(" ", "-"), quick=quick)
    return made


def _remedies(case: Case, subject: Subject, form: str, folder: Path) -> list[Made]:
    known = case.variants(form)
    tried = [one for one in REMEDIES if one not in known]
    return [
        made
        for one in tried
        for made in _attempt(subject, [form], one, folder / f"{form}-{one.replace(' ', '-')}")
    ]


def _plain(subject: Subject, form: str, variants: Sequence[str], folder: Path) -> list[Made]:
    """Make the plain precisions in one go, or each alone where one of them is refused."""
    own = _own(subject)
    plain = [one for one in variants if one not in _SPECIAL and (one == FLOAT or one != own)]
    together = _attempt(subject, [form], plain, folder / form)
    if all(isinstance(one, Built) for one in together):
        return together
    return [
        one for variant in plain for one in _attempt(subject, [form], variant, folder / f"{form}-{variant}")
    ]


def _attempt(
    subject: Subject,
    formats: Sequence[str],
    variants: str | Sequence[str],
    folder: Path,
    *,
    quick: bool = False,
) -> list[Made]:
    """Make some plain precisions together, or one variant of any kind."""
    wanted = [variants] if isinstance(variants, str) else list(variants)
    try:
        package = _convert(subject, formats, wanted, folder, quick=quick)
    except EdgeAgentError as error:
        return [Refused(variant, form, str(error)) for form in formats for variant in wanted]
    return _files(package, wanted, _own(subject), folder)


def _convert(
    subject: Subject, formats: Sequence[str], variants: Sequence[str], folder: Path, *, quick: bool
) -> Any:
    """Call the converter; `variants` are plain precisions, or one of `_SPECIAL` alone."""
    from converters import convert
    from converters.prune.settings import PruneSettings
    from converters.quantize.settings import QuantizeSettings

    special = variants[0] if variants[0] in _SPECIAL else ""
    precisions = (
        [_SPECIAL[special]] if special else [_own(subject) if one == FLOAT else one for one in variants]
    )
    shorter = 4 if quick else 1
    pruning = PruneSettings(
        final_sparsity=PRUNED_SHARE,
        end_step=_PRUNE_END_STEP // shorter,
        steps=_PRUNE_STEPS // shorter,
        frequency=25,
        batch_size=_PRUNE_BATCH,
    )
    return convert(
        subject.model,
        data=subject.train if special == PRUNED else subject.conversion,
        to=list(formats),  # type: ignore[arg-type]
        precision=precisions,
        name="model",
        out=folder,
        max_drop=SEARCH_DROP if special == SEARCH else NO_LIMIT,
        quantize=QuantizeSettings(**_SETTINGS.get(special, {})),
        prune=pruning if special == PRUNED else None,
    )


def _unchecked(subject: Subject, form: str, folder: Path, made: Sequence[Made]) -> list[Made]:
    """Make plain int8 of the float file, without the converter's checks."""
    from converters.formats.sources import read_source
    from converters.quantize import variants
    from converters.workers.trials import Bench

    source = next(
        (one.path for one in made if isinstance(one, Built) and (one.variant, one.format) == (FLOAT, form)),
        None,
    )
    if source is None:
        return []
    target = folder / f"{form}-unchecked"
    target.mkdir()
    with tempfile.TemporaryDirectory(dir=folder) as work, ExitStack() as stack:
        bench = Bench(Path(work), stack)
        loaded = bench.load(form, {"onnx": "onnxruntime", "tflite": "ai-edge-litert"}[form], source)
        samples = subject.calibration([one.name for one in loaded.inputs])
        try:
            found = variants.make(bench, read_source(source), "int8", samples, target)
        except EdgeAgentError:
            # What cannot be made at all is told already.
            return []
    usable = [one for one in found if "aarch64" not in one.architectures]
    return [Built("int8", form, one.path, (), REFUSED) for one in usable]


def _own(subject: Subject) -> str:
    """Return the precision of a file as it is, which the benchmark calls its float model."""
    from converters.formats.sources import read_source

    return read_source(subject.model).precision if isinstance(subject.model, Path) else FLOAT


def _files(package: Any, variants: Sequence[str], own: str, folder: Path) -> list[Made]:
    """Return the package's files as a device unpacks them; `own` is the source's precision."""
    from converters.compress import unpack

    precision = _SPECIAL.get(variants[0])
    called = {precision: variants[0]} if precision else {own: FLOAT}
    found: list[Made] = []
    for index, one in enumerate(package.manifest.variants):
        if "aarch64" in one.requires.architectures:
            continue
        path = unpack(package.folder / blob_path(one.file.sha256), one.file, folder / f"{index}.{one.engine}")
        variant = called.get(one.precision, one.precision)
        found.append(Built(variant, one.engine, path, one.requires.runtimes))
    return found
