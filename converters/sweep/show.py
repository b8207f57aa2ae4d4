"""A sweep on a terminal: aligned columns that also read well in a file."""

from collections.abc import Sequence
from typing import TextIO

from converters.sweep.results import COLUMNS, NUMBERS, Sweep, cells
from converters.sweep.trials import Trial


def show_sweep(sweep: Sweep, stream: TextIO) -> None:
    """Print the front, the other results and the failed trials, what was picked and where it was packaged."""
    names = [sweep.metric.name if name == "quality" else name for name in COLUMNS]
    lines = [cells(row, sweep.metric) for row in sweep.rows]
    alone = len({row.model for row in sweep.rows}) == 1
    shown = [
        index
        for index, name in enumerate(COLUMNS)
        if not (name == "model" and alone) and any(line[index] not in ("", "-") for line in lines)
    ]
    _write_table([[line[index] for index in shown] for line in (names, *lines)], shown, stream)
    stream.write(
        f"\n* on the front: nothing beats it in {sweep.metric.name}, compressed size and latency at once\n"
    )
    if (picked := sweep.picked) is not None:
        stream.write(f"> picked by '{sweep.pick}': {picked.model}, {picked.trial}\n{sweep.package}\n")


def show_trials(trials: Sequence[Trial], stream: TextIO) -> None:
    """Print what a sweep would try."""
    stream.writelines(f"{trial.model}: {trial.name}\n" for trial in trials)
    stream.write(f"{len(trials)} trials\n")


def _write_table(lines: Sequence[Sequence[str]], columns: Sequence[int], stream: TextIO) -> None:
    widths = [max(len(line[at]) for line in lines) for at in range(len(columns))]
    right = [COLUMNS[index] in NUMBERS for index in columns]
    for number, line in enumerate(lines):
        parts = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ]
        stream.write("  ".join(parts).rstrip() + "\n")
        if number == 0:
            stream.write("  ".join("-" * width for width in widths) + "\n")
