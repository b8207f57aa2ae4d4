"""From a subject to files: the one place of the benchmark that calls the converter."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.converters.subjects import PRUNED, SEARCH, Case, Subject
from edge_agent.documents.errors import EdgeAgentError
from edge_agent.documents.manifest import blob_path

NO_LIMIT = 100.0
"""Points that may be lost: the benchmark measures what the converter's gate would refuse."""
SEARCH_DROP = 0.5
PRUNED_SHARE = 0.8
FLOAT = "fp32"

# Some eight passes over animal-mnist's training samples, the last three with the full sparsity.
_PRUNE_END_STEP = 500
_PRUNE_STEPS = 800
_PRUNE_BATCH = 64


@dataclass(frozen=True)
class Built:
    """A file that the converter made."""

    variant: str
    """A precision, or one of SEARCH and PRUNED."""
    format: str
    path: Path
    runtimes: tuple[str, ...]
    """Those that the manifest offers it to."""


@dataclass(frozen=True)
class Refused:
    """A file that the converter did not make, and why."""

    variant: str
    format: str
    reason: str


Made = Built | Refused


def build(case: Case, subject: Subject, folder: Path, *, quick: bool = False) -> list[Made]:
    """Have every variant of a case made; what the converter refuses is told with its reason."""
    made: list[Made] = []
    for form in case.formats:
        made += _plain(subject, form, case.variants(form), folder)
    for special in (SEARCH, PRUNED):
        formats = [form for form in case.formats if special in case.variants(form)]
        if formats:
            made += _attempt(subject, formats, [special], folder / special.replace(" ", "-"), quick=quick)
    return made


def _plain(subject: Subject, form: str, variants: Sequence[str], folder: Path) -> list[Made]:
    """Make the plain precisions in one go, or each alone where one of them is refused."""
    own = _own(subject)
    plain = [one for one in variants if one not in (SEARCH, PRUNED) and (one == FLOAT or one != own)]
    together = _attempt(subject, [form], plain, folder / form)
    if all(isinstance(one, Built) for one in together):
        return together
    return [
        one for variant in plain for one in _attempt(subject, [form], [variant], folder / f"{form}-{variant}")
    ]


def _attempt(
    subject: Subject, formats: Sequence[str], variants: Sequence[str], folder: Path, *, quick: bool = False
) -> list[Made]:
    try:
        package = _convert(subject, formats, variants, folder, quick=quick)
    except EdgeAgentError as error:
        return [Refused(variant, form, str(error)) for form in formats for variant in variants]
    return _files(package, variants, _own(subject), folder)


def _convert(
    subject: Subject, formats: Sequence[str], variants: Sequence[str], folder: Path, *, quick: bool
) -> Any:
    """Call the converter; `variants` are plain precisions, or one of SEARCH and PRUNED alone."""
    from converters import convert
    from converters.prune.settings import PruneSettings
    from converters.quantize.settings import QuantizeSettings

    special = variants[0] if variants[0] in (SEARCH, PRUNED) else ""
    precisions = ["int8"] if special else [_own(subject) if one == FLOAT else one for one in variants]
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
        to=list(formats),
        precision=precisions,
        name="model",
        out=folder,
        max_drop=SEARCH_DROP if special == SEARCH else NO_LIMIT,
        quantize=QuantizeSettings(search=special == SEARCH),
        prune=pruning if special == PRUNED else None,
    )


def _own(subject: Subject) -> str:
    """Return the precision of a file as it is, which the benchmark calls its float model."""
    from converters.formats.sources import read_source

    return read_source(subject.model).precision if isinstance(subject.model, Path) else FLOAT


def _files(package: Any, variants: Sequence[str], own: str, folder: Path) -> list[Made]:
    """Return the package's files as a device unpacks them; `own` is the source's precision."""
    from converters.compress import unpack

    special = variants[0] in (SEARCH, PRUNED)
    called = {"int8": variants[0]} if special else {own: FLOAT}
    found: list[Made] = []
    for index, one in enumerate(package.manifest.variants):
        if "aarch64" in one.requires.architectures:
            continue
        path = unpack(package.folder / blob_path(one.file.sha256), one.file, folder / f"{index}.{one.engine}")
        variant = called.get(one.precision, one.precision)
        found.append(Built(variant, one.engine, path, one.requires.runtimes))
    return found
