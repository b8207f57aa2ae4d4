"""Looks into a package before anybody signs it: what would do harm on devices is refused with the reason."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_agent.documents.errors import ArtifactError, GoldenError, ModelLoadError
from edge_agent.documents.manifest import File, Manifest
from edge_agent.engines import artifacts
from edge_agent.engines.golden import read_golden
from edge_agent.engines.onnx_file import UnreadableError
from edge_agent.store import packing


def check_place(folder: Path, path: Path) -> None:
    """Raise ArtifactError for a file of a package that is a link, or lies behind one."""
    if path.resolve() != folder.resolve() / path.relative_to(folder):
        raise ArtifactError(
            f"{path} is a link to another place: a package holds its own files, build it again."
        )


def check_contents(manifest: Manifest, blob: Callable[[str], Path]) -> None:
    """Raise ArtifactError for a model that would read other files, and for golden samples that are none.

    `blob` gives where a blob lies, by its digest. Whether a model runs is for the devices' probes to say.
    """
    name = f"{manifest.name} {manifest.version}"
    for variant in manifest.variants:
        with _plain(variant.file, blob(variant.file.sha256)) as path:
            try:
                artifacts.check(variant.engine, path)
            except UnreadableError:
                continue
            except ModelLoadError as error:
                file = f"the {variant.engine} {variant.precision} file"
                raise ArtifactError(f"{name}, {file}: {error}") from error
    if manifest.golden is not None:
        with _plain(manifest.golden.file, blob(manifest.golden.file.sha256)) as path:
            try:
                read_golden(path)
            except GoldenError as error:
                raise ArtifactError(f"{name}: {error}") from error


@contextmanager
def _plain(file: File, path: Path) -> Iterator[Path]:
    """Yield where a blob lies decompressed."""
    if file.compression != "zstd":
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="edge-fleet-") as folder:
        plain = Path(folder, "content")
        with path.open("rb") as packed, plain.open("wb") as content:
            content.writelines(packing.unpacked(packed, file))
        yield plain
