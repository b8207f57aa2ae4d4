"""Golden samples: inputs with the answers that the float model gave, and how close a variant must come.

The probe runs them before a version is activated, serving once more before it answers requests with it.
"""

import math
import zipfile
import zlib
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_agent.documents.errors import GoldenError
from edge_agent.documents.plan import Limit

Arrays = dict[str, NDArray[Any]]

LIMIT_BYTES: Final = 512 * 2**20
"""Of all samples of a version together, unpacked."""
_HEADER_BYTES: Final = 10_000
_NPY: Final[Any] = np.lib.format
_HEADERS: Final = {(1, 0): _NPY.read_array_header_1_0, (2, 0): _NPY.read_array_header_2_0}
"""By the version of the format."""


class Sample(NamedTuple):
    """One golden sample: inputs, and the float model's outputs, by tensor name."""

    inputs: Arrays
    outputs: Arrays


def read_golden(path: Path, most: int | None = None) -> list[Sample]:
    """Read the first golden samples, all unless `most` is given, in the layout of `manifest.Golden`.

    Nothing is unpacked that would take more than `LIMIT_BYTES` in all, or of which the file holds less than it
    says. Raises GoldenError for any other layout.
    """
    samples: dict[int, Sample] = {}
    try:
        _check_sizes(path)
        with np.load(path, allow_pickle=False) as archive:
            parts = {name: name.split("/", 2) for name in archive.files}
            chosen = sorted({int(index) for index, _, _ in parts.values()})[:most]
            for name, (index, kind, tensor) in parts.items():
                if int(index) not in chosen:
                    continue
                sample = samples.setdefault(int(index), Sample({}, {}))
                {"input": sample.inputs, "output": sample.outputs}[kind][tensor] = archive[name]
    except (ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        said = str(error).partition("\n")[0]
        raise GoldenError(f"Its golden samples are malformed ({said}); package the version again.") from error
    return [samples[index] for index in sorted(samples)]


def _check_sizes(path: Path) -> None:
    """Raise GoldenError for a zip bomb, ValueError for arrays whose sizes are not those of their files."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > LIMIT_BYTES:
            most = f"{LIMIT_BYTES // 2**20} MiB"
            raise GoldenError(f"Its golden samples unpack to more than {most}; package fewer or smaller ones.")
        for member in members:
            with archive.open(member) as file:
                version = _NPY.read_magic(file)
                shape, _, dtype = _HEADERS[version](file, max_header_size=_HEADER_BYTES)
                if dtype.hasobject:
                    raise ValueError(f"{member.filename} holds objects")
                if math.prod(shape) * dtype.itemsize != member.file_size - file.tell():
                    raise ValueError(f"{member.filename} says that it holds {list(shape)}, and does not")


def check_outputs(index: int, got: Arrays, want: Arrays, tolerances: dict[str, Limit]) -> None:
    """Raise GoldenError unless every golden output is met: |got - want| <= atol + rtol * |want|.

    An output without a tolerance must be equal; one that is not finite where the golden one is fails.
    """
    for name, expected in want.items():
        if name not in got:
            raise GoldenError(f"Golden sample {index}: the model gave no output '{name}'.")
        actual = got[name]
        if actual.shape != expected.shape:
            raise GoldenError(
                f"Golden sample {index}: output '{name}' has shape {list(actual.shape)}, not "
                f"{list(expected.shape)}."
            )
        excess = _excess(actual, expected, tolerances.get(name, Limit()))
        if excess is not None:
            raise GoldenError(f"Golden sample {index}: output '{name}' {excess}.")


def _excess(actual: NDArray[Any], expected: NDArray[Any], limit: Limit) -> str | None:
    """Say how an output misses its tolerance, or None if it does not."""
    if actual.dtype.kind not in "fiub" or expected.dtype.kind not in "fiub":
        return None if np.array_equal(actual, expected) else "differs"
    got, want = actual.astype(np.float64), expected.astype(np.float64)
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    if not np.isfinite(got[~same]).all():
        return "is not finite"
    with np.errstate(invalid="ignore"):
        error = np.where(same, 0.0, np.abs(got - want))
        within = error <= limit.atol + limit.rtol * np.where(same, 0.0, np.abs(want))
    if within.all():
        return None
    return f"is off by {error.max():.4g}, more than the tolerance of {limit.atol:.4g}"
