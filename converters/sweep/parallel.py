"""Trials side by side through joblib, whose backends reach from this host's cores to Dask and Ray clusters.

Each trial works in a folder of its own and says what came of it; nothing of it is left elsewhere, also not when
it is killed. On a cluster, that folder and the models and data must lie where all of its hosts see them.
"""

import signal
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from multiprocessing import resource_tracker
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

from converters.conversion.recipe import Recipe
from converters.errors import WorkerError, missing
from converters.report.model import Package
from converters.sweep.trials import Trial
from edge_agent.documents.errors import EdgeAgentError, RequestError, unexpected

RunTrial = Callable[[Recipe], Package]
"""Makes one version in the recipe's `out`; raises EdgeAgentError when it comes to nothing. Is pickled."""

_ALL_CORES: Final = -1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a trial came to: a package in its folder, or the reason why there is none."""

    index: int
    package: Package | None
    reason: str = ""


def run_all(
    run_trial: RunTrial,
    trials: Sequence[Trial],
    scratch: Path,
    jobs: int | None,
    backend: str | None,
    done: Callable[[int], None],
) -> list[Outcome]:
    """Run every trial and return the outcomes in the trials' order; `done` hears how many are done.

    Without `backend` the one that the caller has chosen by `joblib.parallel_config` is used, else processes on
    this host. Raises RequestError for an unknown backend, WorkerError when a process of it is killed.
    """
    joblib = _import()
    context = nullcontext() if backend is None else _backend(joblib, backend)
    with context, _mapping_errors(joblib), _ending_processes(joblib), _restoring_tempdir():
        active, inherited = joblib.get_active_backend()
        count = jobs if jobs is not None else _ALL_CORES if inherited in (None, 1) else None
        generates = getattr(active, "supports_return_generator", False)
        parallel = joblib.Parallel(n_jobs=count, return_as="generator_unordered" if generates else "list")
        tasks = [joblib.delayed(attempt)(run_trial, at, trial, str(scratch)) for at, trial in enumerate(trials)]
        outcomes = _gather(joblib, parallel, tasks, done) if generates else list(parallel(tasks))
    return sorted(outcomes, key=lambda outcome: outcome.index)


def _gather(
    joblib: SimpleNamespace, parallel: Any, tasks: Sequence[Any], done: Callable[[int], None]
) -> list[Outcome]:
    """Return the outcomes in the order in which they come."""
    # Started later, these would let Ctrl-C through again.
    resource_tracker.ensure_running()
    joblib.ensure_running()
    results: Any = None
    outcomes: list[Outcome] = []
    try:
        with _holding_interrupts():
            results = parallel(tasks)
        for outcome in results:
            outcomes.append(outcome)
            done(len(outcomes))
    except BaseException:
        if results is not None:
            with warnings.catch_warnings(action="ignore", category=UserWarning):
                # joblib has advice for whoever stops early.
                results.close()
        raise
    return outcomes


def attempt(run_trial: RunTrial, index: int, trial: Trial, scratch: str) -> Outcome:
    """Run one trial in a folder of its own; never raises what a trial can be blamed for."""
    folder = Path(scratch, f"trial-{index}")
    with _tempdir(scratch):
        try:
            return Outcome(index, run_trial(replace(trial.recipe, out=str(folder))))
        except EdgeAgentError as error:
            return Outcome(index, None, str(error))
        except Exception as error:
            return Outcome(index, None, unexpected(error))


def _backend(joblib: SimpleNamespace, name: str) -> Any:
    if name == "multiprocessing":
        raise RequestError(
            "joblib's backend 'multiprocessing' hangs when it is interrupted; choose loky, which does the same "
            "without that."
        )
    try:
        return joblib.parallel_config(backend=name)
    except (ValueError, ImportError) as error:
        said = str(error).splitlines()[0].rstrip(".")
        raise RequestError(
            f"joblib has no backend '{name}' here ({said}); choose loky or threading, or install and start "
            "dask or ray and register it as joblib's documentation says."
        ) from error


@contextmanager
def _mapping_errors(joblib: SimpleNamespace) -> Iterator[None]:
    try:
        yield
    except joblib.TerminatedWorkerError as error:
        raise WorkerError(
            "A process of the sweep was killed, most often because memory ran out; give fewer --jobs."
        ) from error


@contextmanager
def _holding_interrupts() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back while processes are started, which inherit that Ctrl-C is blocked for good.

    It reaches the whole foreground, but the sweep alone acts on it, and ends them.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with _deferring((signal.SIGINT, signal.SIGTERM)):
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextmanager
def _deferring(signals: Sequence[signal.Signals]) -> Iterator[None]:
    """Call the handlers of signals when the block has ended; in a thread, which none reaches, do nothing.

    A mask alone does not keep them from this process: a library's threads may take them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []
    before = {one: signal.signal(one, lambda number, frame: caught.append(number)) for one in signals}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
        for number in caught:
            signal.raise_signal(number)


@contextmanager
def _ending_processes(joblib: SimpleNamespace) -> Iterator[None]:
    """When the sweep is stopped, end joblib's own processes before their folders are removed."""
    try:
        yield
    except BaseException:
        joblib.get_reusable_executor(reuse=True).shutdown(wait=True, kill_workers=True)
        raise


@contextmanager
def _tempdir(folder: str) -> Iterator[None]:
    # A trial that is killed removes nothing: what it makes must lie where the sweep removes it.
    before, tempfile.tempdir = tempfile.tempdir, folder
    try:
        yield
    finally:
        tempfile.tempdir = before


@contextmanager
def _restoring_tempdir() -> Iterator[None]:
    """Undo what trials in threads of this process leave of each other's setting."""
    before = tempfile.tempdir
    try:
        yield
    finally:
        tempfile.tempdir = before


def _import() -> SimpleNamespace:
    try:
        from joblib import Parallel, delayed, parallel_config
        from joblib.externals.loky import get_reusable_executor
        from joblib.externals.loky.backend.resource_tracker import ensure_running
        from joblib.externals.loky.process_executor import TerminatedWorkerError
        from joblib.parallel import get_active_backend
    except ImportError as error:
        raise missing("joblib") from error
    return SimpleNamespace(
        Parallel=Parallel,
        TerminatedWorkerError=TerminatedWorkerError,
        delayed=delayed,
        ensure_running=ensure_running,
        get_active_backend=get_active_backend,
        get_reusable_executor=get_reusable_executor,
        parallel_config=parallel_config,
    )
