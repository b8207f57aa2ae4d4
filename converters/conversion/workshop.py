"""Where a conversion works: a folder that goes with it, worker processes, and who hears of progress."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from converters.formats.sources import SourceModel
from converters.package import mapping_full_disk, mapping_os_errors
from converters.terms import Advanced, Progress
from converters.workers.trials import Bench, Loaded
from edge_agent.documents.errors import EdgeAgentError


@dataclass(frozen=True, slots=True)
class Workshop:
    """A conversion's folder and helpers."""

    folder: Path
    bench: Bench
    progress: Progress

    def load(self, source: SourceModel, runtimes: Sequence[str]) -> Loaded:
        """Load a model in the first runtime that takes it; raises what the first one said when none does."""
        refusals: list[EdgeAgentError] = []
        for runtime in runtimes:
            try:
                return self.bench.load(source.engine, runtime, source.path)
            except EdgeAgentError as error:
                refusals.append(error)
        raise refusals[0]

    def part(self, step: str, begin: float, end: float) -> Advanced:
        """Announce a step that takes the progress from `begin` to `end`, and return what hears of its share."""
        self.progress(step, begin)
        return lambda share: self.progress(step, begin + (end - begin) * share)


@contextmanager
def workshop(progress: Progress) -> Iterator[Workshop]:
    """Open a workshop; its folder and workers go with the block, whatever ends it."""
    place = Path(tempfile.gettempdir())
    with ExitStack() as stack, mapping_full_disk(place):
        with mapping_os_errors(place):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edge-convert-")))
        yield Workshop(folder, Bench(folder, stack), progress)
