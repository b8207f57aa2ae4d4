"""A worker that dies or hangs is the variant's or the runtime's fault, never the converter's end."""

import os
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from converters.errors import DataError, WorkerError
from converters.prune.settings import PruneSettings
from converters.terms import Origin
from converters.workers import messages
from converters.workers.trials import RUNTIMES, Bench
from converters.workers.worker import Worker, worker
from edge_agent.documents.errors import ModelLoadError, RequestError


def load(path: Path) -> messages.Load:
    return messages.Load(engine="onnx", path=str(path), settings=RUNTIMES["onnx"]["onnxruntime"])


def test_worker_that_is_killed_is_named_with_its_signal(models, workplace: Path) -> None:
    with worker(workplace) as child:
        child.ask(load(models.onnx), messages.Loaded)
        os.kill(child.pid, signal.SIGSEGV)
        with pytest.raises(WorkerError, match="crashed with SIGSEGV"):
            child.ask(load(models.onnx), messages.Loaded)


def test_worker_that_hangs_is_ended(models, workplace: Path) -> None:
    with worker(workplace, limit_s=1.0) as child:
        os.kill(child.pid, signal.SIGSTOP)
        with pytest.raises(WorkerError, match="did not finish within 1 s"):
            child.ask(load(models.onnx), messages.Loaded)


def test_worker_reports_what_the_runtime_says(workplace: Path) -> None:
    broken = workplace / "broken.onnx"
    broken.write_bytes(b"not a model")

    with worker(workplace) as child, pytest.raises(ModelLoadError, match="ONNX Runtime cannot load"):
        child.ask(load(broken), messages.Loaded)


def test_worker_that_says_several_things_at_once_is_heard_in_order(workplace: Path) -> None:
    said = [messages.Advanced(share=0.5), messages.Advanced(share=0.9), messages.Done(), messages.Done()]
    lines = b"".join(msgspec.json.encode(one) + b"\n" for one in said).decode()
    ask = load(workplace / "unread.onnx")
    heard: list[float] = []

    with subprocess.Popen(
        ["sh", "-c", 'read -r ask; printf "%s" "$0"; read -r ask', lines],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        child = Worker(process, workplace / "errors.log", limit_s=10.0)
        child.ask(ask, messages.Done, heard.append)
        child.ask(ask, messages.Done, heard.append)

    assert heard == [0.5, 0.9]


def test_error_keeps_its_class_and_sentence(workplace: Path) -> None:
    import joblib
    import numpy as np
    from sklearn.linear_model import LinearRegression

    joblib.dump(LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0]), workplace / "line.joblib")
    absent, line = (
        Origin("scikit-learn", str(workplace / name), trust_pickle=True)
        for name in ("absent.joblib", "line.joblib")
    )
    np.savez(workplace / "data.npz", input=np.zeros((2, 1), np.float32))
    unlabelled = messages.Prune(
        origin=line, targets={}, data=str(workplace / "data.npz"), settings=PruneSettings()
    )

    with worker(workplace) as child:
        with pytest.raises(RequestError, match=r"does not exist; give a \.joblib file"):
            child.ask(messages.InputNames(origin=absent), messages.Named)
        with pytest.raises(DataError, match="Pruning fine-tunes the model, so it needs --data"):
            child.ask(unlabelled, messages.Pruned)


def test_bench_measures_models_in_turns(models, workplace: Path) -> None:
    import numpy as np

    with ExitStack() as stack:
        bench = Bench(workplace, stack)
        pair = [bench.load("onnx", "onnxruntime", models.onnx) for _ in range(2)]
        sample = {"image": np.zeros((1, 1, 12, 12), np.float32)}
        latencies = bench.latencies_ms(pair, sample)

    assert all(0 < latency < 1000 for latency in latencies)


def test_memory_of_a_model_grows_with_what_it_holds(workplace: Path) -> None:
    import numpy as np
    from onnx import helper

    from support import convertible

    def model(name: str, megabytes: int) -> Path:
        # Random weights: pages of equal zeros could be shared.
        weights = np.random.default_rng(0).random((256, 1024 * megabytes), dtype=np.float32)
        back = np.zeros((1024 * megabytes, 1), np.float32)
        nodes = [
            helper.make_node("MatMul", ["image", "weights"], ["hidden"]),
            helper.make_node("MatMul", ["hidden", "back"], ["scores"]),
        ]
        constants = {"weights": weights, "back": back}
        return convertible.save_onnx(workplace / name, nodes, constants, [1, 256], [1, 1])

    sample = {"image": np.zeros((1, 256), np.float32)}
    with ExitStack() as stack:
        bench = Bench(workplace, stack)
        paths = [model("small.onnx", 1), model("large.onnx", 48)]
        small, large = bench.measure([bench.load("onnx", "onnxruntime", path) for path in paths], sample)

    assert 0 < small.memory_bytes < 40e6
    assert 47e6 < large.memory_bytes - small.memory_bytes < 250e6
    assert 0 < small.latency_ms < large.latency_ms


def test_memory_is_that_of_a_fresh_process(models, workplace: Path) -> None:
    import numpy as np

    sample = {"image": np.zeros((1, 1, 12, 12), np.float32)}
    with ExitStack() as stack:
        bench = Bench(workplace, stack)
        loaded = bench.load("onnx", "onnxruntime", models.onnx)
        before = bench.measure([loaded], sample)[0]
        # This makes the long-lived worker itself grow by tens of megabytes.
        bench.run(loaded, [{"image": np.zeros((4000, 1, 12, 12), np.float32)}])
        after = bench.measure([loaded], sample)[0]

    assert abs(after.memory_bytes - before.memory_bytes) < 4e6
