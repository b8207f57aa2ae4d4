"""What is counted of requests: for the supervisor, for metrics, and for Triton's statistics."""

from time import perf_counter_ns

from edge_agent.documents.errors import (
    DeadlineExceededError,
    EdgeAgentError,
    RequestError,
    UnavailableError,
)
from edge_agent.serving.jobs import Times
from edge_agent.serving.router import Choice
from edge_agent.telemetry.counters import Counters, VersionCounters
from edge_agent.telemetry.health_page import HealthPage


class Accounts:
    """Keeps the health page and the counters. For the event loop's thread."""

    def __init__(self, page: HealthPage, counters: Counters) -> None:
        self._page = page
        self._counters = counters

    def of(self, choice: Choice) -> VersionCounters:
        """Return the counters of the version that was chosen."""
        plan = choice.loaded.plan
        return self._counters.of(plan.model, plan.version)

    def note_unread(self, model: str, version: str, error: EdgeAgentError, started_ns: int) -> None:
        """Count a request that was refused before anybody was chosen to answer it."""
        self._note_end(self._counters.of(model, version), error, started_ns)

    def note_refusal(self, choice: Choice, error: EdgeAgentError, started_ns: int) -> None:
        """Count a request that was refused before a run."""
        counters = self.of(choice)
        counters.note_arm(choice.arm)
        self._note_end(counters, error, started_ns)

    def note_exposure(self, choice: Choice) -> None:
        """Count a request that runs from now on; before the run, so that a crash loses no exposure."""
        self._page.count(choice.loaded.slot, exposures=int(choice.is_exposure))

    def note_hit(self, choice: Choice, counters: VersionCounters, lookup_ns: int) -> None:
        """Count a request that needs no run of its own."""
        counters.cache_hits += 1
        counters.statistics.cache_hit.add(lookup_ns)
        self._page.count(choice.loaded.slot, exposures=int(choice.is_exposure))

    def note_answer(
        self,
        choice: Choice,
        counters: VersionCounters,
        error: EdgeAgentError | None,
        started_ns: int,
        times: Times | None = None,
    ) -> None:
        """Count a request that has been answered, with a result or an error, and the time of its run.

        What time repairs is no fault of the version: to go back to another one would not make more room.
        """
        counters.note_arm(choice.arm)
        self._note_end(counters, error, started_ns)
        is_fault = error is not None and not isinstance(error, RequestError | UnavailableError)
        run_ns = times.infer_ns if times is not None and times.executions else 0
        self._page.count(choice.loaded.slot, requests=1, errors=int(is_fault), run_ns=run_ns)

    def note_run(
        self, choice: Choice, counters: VersionCounters, times: Times, rows: int, bound_ns: int
    ) -> None:
        """Count one request's part of a run; `bound_ns` is what it took to make arrays of its inputs."""
        statistics = counters.statistics
        statistics.inference_count += rows
        statistics.queue.add(times.queue_ns)
        statistics.compute_input.add(times.input_ns + bound_ns)
        statistics.compute_infer.add(times.infer_ns)
        if times.executions:
            statistics.note_executions(
                times.executions, times.rows, times.input_ns, times.infer_ns, times.output_ns
            )

    def note_late_run(self, choice: Choice, times: Times) -> None:
        """Count the time of a run that ended after its request was answered."""
        if times.executions:
            self._page.count(choice.loaded.slot, run_ns=times.infer_ns)

    def _note_end(self, counters: VersionCounters, error: EdgeAgentError | None, started_ns: int) -> None:
        now_ns = perf_counter_ns()
        took_ns = now_ns - started_ns
        counters.observe(took_ns / 1e9)
        counters.statistics.note_request(took_ns, now_ns, error is None)
        if error is not None:
            counters.fail(_kind(error))


def _kind(error: EdgeAgentError) -> str:
    """Return the label under which an error is counted."""
    if isinstance(error, DeadlineExceededError):
        return "deadline"
    if isinstance(error, RequestError):
        return "request"
    return "unavailable" if isinstance(error, UnavailableError) else "engine"
