"""Conversions and models on a terminal: a progress bar, tables and notes. The one module here that uses "
"rich."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, TextIO

from converters.build import Progress
from converters.errors import missing
from converters.inspection import Inspected
from converters.report import COLUMNS, NUMBERS, Package, VariantRow, cells, size
from edge_agent.documents.manifest import File, Manifest
from edge_agent.documents.tensors import TensorSpec


@contextmanager
def progress_bar(stream: TextIO) -> Iterator[Progress]:
    """Show a bar on a terminal, and nothing elsewhere."""
    if not stream.isatty():
        yield lambda step, share: None
        return
    rich = _import()
    console = rich.Console(file=stream)
    columns = (rich.BarColumn(), rich.TaskProgressColumn(), rich.TextColumn("{task.description}", markup=False))
    with rich.Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("read the model", total=1.0)

        def advance(step: str, share: float) -> None:
            bar.update(task, description=step, completed=share)

        yield advance


def show_package(package: Package, stream: TextIO) -> None:
    """Print the table of variants, what was left out and why, and where the package lies."""
    rich = _import()
    console = _console(rich, stream)
    source_bytes = package.manifest.metadata["float"]["size_bytes"]
    written = [cells(row, source_bytes) for row in package.rows]
    shown = [index for index in range(len(COLUMNS)) if any(line[index] != "-" for line in written)]
    table = rich.Table(box=rich.SIMPLE, pad_edge=False)
    for index in shown:
        name = COLUMNS[index]
        table.add_column(name, justify="right" if name in NUMBERS else "left", no_wrap=name != COLUMNS[-1])
    for row, line in zip(package.rows, written, strict=True):
        table.add_row(*(line[index] for index in shown), style="" if row.packaged else "dim")
    console.print(table)
    for note in (*_reasons(package.rows), *_evaluated(package), *package.notes):
        console.print(f"- {note}", markup=False, highlight=False, soft_wrap=True)
    state = "" if package.is_new else " (was there already, unchanged)"
    console.print(f"{package.folder}{state}", markup=False, highlight=False, soft_wrap=True)


def show_model(model: Inspected, stream: TextIO) -> None:
    """Print what a model file is."""
    operators = ", ".join(f"{count} {name}" for name, count in list(model.operators.items())[:12])
    more = len(model.operators) - 12
    lines = [
        f"{model.path}: {model.engine} {model.precision}, {size(model.size_bytes)}, sha256 {model.sha256}",
        *(f"  input   {_tensor(spec)}" for spec in model.inputs),
        *(f"  output  {_tensor(spec)}" for spec in model.outputs),
        f"  {sum(model.operators.values())} operators: {operators}"
        + (f" and {more} more types" if more > 0 else ""),
        *(
            f"  runs on {found}" if found.startswith(name) else f"  not on {name}: {found}"
            for name, found in model.runtimes.items()
        ),
    ]
    stream.write("\n".join(lines) + "\n")


def show_manifest(manifest: Manifest, stream: TextIO) -> None:
    """Print what a package holds."""
    golden = f", {manifest.golden.samples} golden samples" if manifest.golden else ""
    stream.write(f"{manifest.name} {manifest.version} from {manifest.source.framework}{golden}\n")
    for kind, tensors in (("input ", manifest.inputs), ("output", manifest.outputs)):
        for tensor in tensors:
            stream.write(f"  {kind}  {_tensor(TensorSpec(tensor.name, tensor.datatype, tensor.shape))}\n")
    for variant in manifest.variants:
        requires = variant.requires
        needs = ", ".join((*requires.architectures, *requires.runtimes))
        metrics = ", ".join(f"{name} {value:g}" for name, value in variant.metrics.items())
        stream.write(
            f"  {variant.engine} {variant.precision}: {_sizes(variant.file)}; for {needs or 'any'}; {metrics}\n"
        )


def _sizes(file: File) -> str:
    if file.compression == "none":
        return size(file.size_bytes)
    return f"{size(file.kept_size_bytes)}, travels as {size(file.size_bytes)} of {file.compression}"


def _reasons(rows: Sequence[VariantRow]) -> list[str]:
    return [
        f"{row.label}: {row.reason}" if row.packaged else f"{row.label} is left out: {row.reason}"
        for row in rows
        if row.reason
    ]


def _evaluated(package: Package) -> list[str]:
    facts = package.manifest.metadata["evaluation"]
    accuracy = package.manifest.metadata["float"].get("accuracy")
    own = f"; the source model's accuracy is {100 * accuracy:.2f} %" if accuracy is not None else ""
    return [f"Measured on {facts['samples']} {facts['data']} samples{own}."]


def _tensor(spec: TensorSpec) -> str:
    shape = ", ".join("any" if dimension == -1 else str(dimension) for dimension in spec.shape)
    return f"{spec.name} {spec.datatype} [{shape}]"


def _console(rich: SimpleNamespace, stream: TextIO) -> Any:
    # Off a terminal rich would fold at 80 columns; whoever reads a file wants whole lines.
    return rich.Console(file=stream, width=None if stream.isatty() else 200)


def _import() -> SimpleNamespace:
    try:
        from rich.box import SIMPLE
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
        from rich.table import Table
    except ImportError as error:
        raise missing("rich") from error
    return SimpleNamespace(
        SIMPLE=SIMPLE,
        BarColumn=BarColumn,
        Console=Console,
        Progress=Progress,
        Table=Table,
        TaskProgressColumn=TaskProgressColumn,
        TextColumn=TextColumn,
    )
