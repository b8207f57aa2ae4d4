"""Requests that are larger than one run may be: run slice by slice, in bounded memory."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.documents.errors import EdgeAgentError, ModelLoadError
from edge_agent.serving.jobs import Job, Result, Times

Submit = Callable[[Job], None]


class _Slice(Job, eq=False, kw_only=True):
    run: "SlicedRun"

    @property
    def is_wanted(self) -> bool:
        return self.run.whole.is_wanted

    def finish(self, result: Result, times: Times) -> None:
        self.run.take(result, times)

    def drop(self) -> None:
        self.run.whole.drop()


class SlicedRun:
    """The slices of one job, each of `rows` rows at most and run when the one before has ended.

    So other requests get their turn between them, and beside the whole inputs and outputs the memory of one
    slice's run is all that is taken. The outputs are as large as the first slice's say.
    """

    def __init__(self, whole: Job, rows: int, submit: Submit) -> None:
        self.whole = whole
        self._rows = rows
        self._submit = submit
        self._total = next(iter(whole.inputs.values())).shape[0]
        self._done = 0
        self._outputs: dict[str, NDArray[Any]] = {}
        self._times = Times(executions=0)

    def start(self) -> None:
        """Run the first slice; the others follow by themselves."""
        first, last = self._done, min(self._done + self._rows, self._total)
        whole = self.whole
        inputs = {name: tensor[first:last] for name, tensor in whole.inputs.items()}
        self._submit(
            _Slice(
                loaded=whole.loaded,
                inputs=inputs,
                wanted=whole.wanted,
                size_bytes=sum(tensor.nbytes for tensor in inputs.values()),
                priority=whole.priority,
                deadline_ns=whole.deadline_ns,
                run=self,
            )
        )

    def take(self, result: Result, times: Times) -> None:
        """Take one slice's result; go on, or end with an error or with all of it."""
        self._add(times)
        error = result if isinstance(result, EdgeAgentError) else self._keep(result)  # type: ignore[arg-type]
        if error is not None:
            self.whole.finish(error, self._times)
        elif self._done == self._total:
            self.whole.finish(self._outputs, self._times)
        elif self.whole.is_wanted:
            self.start()
        else:
            self.whole.drop()

    def _keep(self, result: dict[str, NDArray[Any]]) -> EdgeAgentError | None:
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
