"""A sweep on a terminal."""

from collections.abc import Sequence
from typing import TextIO

from converters.commands.show import console_for, import_rich, print_table
from converters.sweep.results import COLUMNS, FRONT, NUMBERS, Sweep, cells, headings
from converters.sweep.trials import Trial


def show_sweep(sweep: Sweep, stream: TextIO) -> None:
    """Print the front, the other results and the failed trials, what was picked and where it was packaged."""
    names = headings(sweep.metric)
    lines = [cells(row, sweep.metric) for row in sweep.rows]
    alone = len({row.model for row in sweep.rows}) == 1
    shown = [
        index
        for index, column in enumerate(COLUMNS)
        if not (column == "model" and alone) and any(line[index] not in ("", "-") for line in lines)
    ]
    columns = [COLUMNS[index] for index in shown]
    rich = import_rich()
    print_table(
        console_for(rich, stream),
        rich,
        [list(names)[index] for index in shown],
        [[line[index] for index in shown] for line in lines],
        left=[place for place, column in enumerate(columns) if column not in NUMBERS],
        folded=("trial", "note"),
    )
    stream.write(f"{FRONT.format(sweep.metric.name)}\n")
    if (picked := sweep.picked) is not None:
        stream.write(f"> picked by '{sweep.pick}': {picked.model}, {picked.trial}\n{sweep.package}\n")


def show_trials(trials: Sequence[Trial], stream: TextIO) -> None:
    """Print what a sweep would try."""
    stream.writelines(f"{trial.model}: {trial.name}\n" for trial in trials)
    stream.write(f"{len(trials)} trials\n")
