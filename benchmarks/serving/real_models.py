"""Real models, beside Triton's Python backend and the bare runtime: one connection, binary tensors, one CPU.

    python -m benchmarks.serving.real_models [--json] [--quick]

Magika (3 MB), a face detector (TFLite), a reader of lines of text (10.6 MB, which answers with 1 MB), and an
image tensor of 1.2 MB. The agent answers over the Unix socket and over TCP, Triton over TCP; both are sent the
same bytes and have the same runtime, with one thread. There are no targets: it is what an app can expect.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serving import models
from benchmarks.serving.agent import MODEL, pinned, serving
from benchmarks.serving.exchanges import Address, answer, binary, connect, exchanging, medians_us
from benchmarks.serving.packaged import FACE, MAGIKA, READER, packaged
from benchmarks.serving.peers import triton
from benchmarks.serving.peers.install import install_all
from benchmarks.serving.rows import Row, main, progress
from edge_agent.documents.settings import CacheSettings, EngineSettings
from edge_agent.engines import base

HOST = "127.0.0.1"
OFF = CacheSettings(max_bytes=0)


@dataclass(frozen=True)
class Case:
    """A model file and what it is asked."""

    name: str
    path: Path
    inputs: dict[str, Any]


def measure(quick: bool) -> Iterator[Row]:
    install_all()
    draw = np.random.default_rng(0)
    cpus = {max(os.sched_getaffinity(0))}
    with tempfile.TemporaryDirectory() as name, pinned(cpus):
        folder = Path(name)
        tokens = draw.integers(0, 257, (1, 2048)).astype(np.int32)
        cases = (
            Case("Magika, 3 MB of ONNX", packaged(MAGIKA), {"bytes": tokens}),
            Case("face detector, TFLite", packaged(FACE), {"input": models.random((1, 128, 128, 3))}),
            Case("reader of text, 10.6 MB of ONNX", packaged(READER), {"x": models.random((1, 3, 48, 320))}),
            Case("image tensor of 1.2 MB, ONNX", models.image(folder), {"x": models.random(models.IMAGE)}),
        )
        for number, case in enumerate(cases):
            progress(f"{case.name}, beside Triton …")
            yield compare(_made(folder / str(number)), case, cpus, 120 if quick else 400)


def compare(folder: Path, case: Case, cpus: set[int], rounds: int) -> Row:
    """Return the row of a model: how many times the bare run a request over the Unix socket takes."""
    engine = base.find(case.path.suffix[1:]).load(case.path, EngineSettings(threads=1))
    served = {MODEL: triton.of_file(case.path, engine.inputs, engine.outputs)}
    request = binary(f"/v2/models/{MODEL}/infer", case.inputs)
    with ExitStack() as stack:
        port = stack.enter_context(triton.serving(_made(folder / "triton"), served, cpus))
        agent = stack.enter_context(
            serving(_made(folder / "agent"), case.path, threads=1, cpus=cpus, cache=OFF)
        )
        calls: dict[str, Callable[[], object]] = {
            "edge-agent": exchanging(agent.path, request),
            "edge-agent by TCP": exchanging((HOST, agent.port), request),
            "Triton": exchanging((HOST, port), request),
            "bare run": lambda: engine.run(case.inputs),
        }
        _check_equal(agent.path, (HOST, port), request, sum(o.nbytes for o in engine.run(case.inputs).values()))
        found = medians_us(calls, rounds)
    share = found["edge-agent"] / found["bare run"]
    return Row(
        f"{case.name}: p50 of a request, binary tensors", share, "x bare run", peers=found, peers_unit="µs"
    )


def _check_equal(ours: Address, theirs: Address, request: bytes, tail: int) -> None:
    """A server that answers something else, or in another order, would be compared wrongly."""
    bodies = []
    for address in (ours, theirs):
        with connect(address) as connection:
            bodies.append(answer(connection, request)[1])
    mine, other = (np.frombuffer(body[-tail:], np.float32) for body in bodies)
    np.testing.assert_allclose(mine, other, rtol=1e-3, atol=1e-4)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", measure))
