"""Requests that are larger than one run may be: run slice by slice, in bounded memory."""

import asyncio
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.documents.errors import EdgeAgentError, ModelLoadError
from edge_agent.serving.calls import Results
from edge_agent.serving.jobs import Job, Result, Times
from edge_agent.serving.scheduler import Scheduler


class _Slice(Job, eq=False, kw_only=True):
    run: "SlicedRun"

    @property
    def is_wanted(self) -> bool:
        return self.run.whole.is_wanted

    def finish(self, result: Result, times: Times) -> None:
        self.run.take(result, times)

    def drop(self) -> None:
        self.run.drop()


class SlicedRun:
    """The slices of one job, each of `rows` rows at most and run when the one before has ended.

    So other requests get their turn between them, and beside the whole inputs and outputs the memory of one
    slice's run is all that is taken. The outputs are as large as the first slice's say. The version is held, so
    that it is not unloaded between two slices.
    """

    def __init__(self, whole: Job, rows: int, scheduler: Scheduler) -> None:
        self.whole = whole
        self._rows = rows
        self._scheduler = scheduler
        self._loop = asyncio.get_running_loop()
        self._total = next(iter(whole.inputs.values())).shape[0]
        self._done = 0
        self._outputs: dict[str, NDArray[Any]] = {}
        self._times = Times(executions=0)

    def start(self) -> None:
        """Run the first slice; the others follow by themselves."""
        self.whole.loaded.holds += 1
        self._scheduler.submit(self._next())

    def drop(self) -> None:
        """Run no more, as nobody wants it."""
        self._end()
        self.whole.drop()

    def _next(self) -> Job:
        first, last = self._done, min(self._done + self._rows, self._total)
        whole = self.whole
        inputs = {name: tensor[first:last] for name, tensor in whole.inputs.items()}
        whole.part = _Slice(
            loaded=whole.loaded,
            inputs=inputs,
            wanted=whole.wanted,
            size_bytes=sum(tensor.nbytes for tensor in inputs.values()),
            priority=whole.priority,
            deadline_ns=whole.deadline_ns,
            run=self,
        )
        return whole.part

    def take(self, result: Result, times: Times) -> None:
        """Take one slice's result; go on, or end with an error or with all of it."""
        self._add(times)
        error = result if isinstance(result, EdgeAgentError) else self._kept(result)
        if error is not None:
            self._end()
            self.whole.finish(error, self._times)
        elif self._done == self._total:
            self._end()
            self.whole.finish(self._outputs, self._times)
        elif self.whole.is_wanted:
            # By way of the loop: a quick model's slices run on its thread, where others get their turn, too.
            self._loop.call_soon(self._scheduler.submit, self._next())
        else:
            self.drop()

    def _end(self) -> None:
        loaded, self.whole.part = self.whole.loaded, None
        loaded.holds -= 1
        # By way of the loop, since the answer is still to be made.
        self._loop.call_soon(self._scheduler.close_if_done, loaded)

    def _kept(self, result: Results) -> EdgeAgentError | None:
        try:
            return self._keep(result)
        # A plug-in's results that are none, or no memory for all of them.
        except Exception as error:
            return ModelLoadError(f"The results of slices cannot be joined: {type(error).__name__}: {error}.")

    def _keep(self, result: Results) -> EdgeAgentError | None:
        count = min(self._rows, self._total - self._done)
        for name, part in result.items():
            if not part.shape or part.shape[0] != count:
                return ModelLoadError(
                    f"Output '{name}' has not as many rows as the inputs; send smaller requests."
                )
            whole = self._outputs.get(name)
            if whole is None:
                whole = self._outputs[name] = np.empty((self._total, *part.shape[1:]), part.dtype)
            if whole.shape[1:] != part.shape[1:]:
                return ModelLoadError(
                    f"Output '{name}' differs in shape from slice to slice; send smaller requests."
                )
            whole[self._done : self._done + count] = part
        self._done += count
        return None

    def _add(self, times: Times) -> None:
        known = self._times
        self._times = Times(
            known.queue_ns + times.queue_ns,
            known.input_ns + times.input_ns,
            known.infer_ns + times.infer_ns,
            known.output_ns + times.output_ns,
            self._total,
            known.executions + times.executions,
        )
