"""Rows of the table: one figure each, with its target and what the peers had in the same run."""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Measure = Callable[[bool], Iterable["Row"]]


@dataclass(frozen=True)
class Row:
    """One figure. `value` is None where it could not be measured; `note` then says why.

    `peers` holds what it was computed from, in `peers_unit`: the agent's own figure, and that of every peer.
    """

    name: str
    value: float | None
    unit: str
    target: float | None = None
    is_minimum: bool = False
    """True where the value must reach the target, false where it must not exceed it."""
    peers: Mapping[str, float] = field(default_factory=dict)
    peers_unit: str = ""
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one. What was not measured is not met."""
        if self.target is None:
            return None
        if self.value is None:
            return False
        return self.value >= self.target if self.is_minimum else self.value <= self.target

    @property
    def bound(self) -> str:
        return ">=" if self.is_minimum else "<="


def as_json(row: Row) -> dict[str, Any]:
    """Return the row as one JSON object."""
    return {
        "name": row.name,
        "value": None if row.value is None else round(row.value, 4),
        "unit": row.unit,
        "target": row.target,
        "bound": None if row.target is None else row.bound,
        "met": row.met,
        "peers": {name: round(value, 2) for name, value in row.peers.items()},
        "peers_unit": row.peers_unit,
        "note": row.note,
    }


def from_json(content: Mapping[str, Any]) -> Row:
    """Return the row that `as_json` wrote."""
    return Row(
        content["name"],
        content["value"],
        content["unit"],
        content["target"],
        content["bound"] == ">=",
        content["peers"],
        content["peers_unit"],
        content["note"],
    )


def text(rows: Iterable[Row]) -> Iterator[str]:
    """Yield the lines of a table for a terminal."""
    for row in rows:
        value = "-" if row.value is None else f"{row.value:,.2f}" if row.value < 10 else f"{row.value:,.1f}"
        target = "" if row.target is None else f"{row.bound} {row.target:g}"
        verdict = {None: "", True: "met", False: "MISSED"}[row.met]
        yield f"{row.name:<64}{value:>11} {row.unit:<12} {target:<9} {verdict}".rstrip()
        if row.peers:
            yield (
                "    "
                + ", ".join(f"{name} {shown(peer)}" for name, peer in row.peers.items())
                + " "
                + row.peers_unit
            )
        if row.note:
            yield f"    {row.note}"


def shown(value: float) -> str:
    """Return a number with as many digits as are worth reading."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def ratio(
    name: str, ours: float, theirs: float, peer: str, unit: str, target: float, *, is_minimum: bool = False
) -> Row:
    """Return the row of our figure over a peer's."""
    peers = {"edge-agent": ours, peer: theirs}
    return Row(name, ours / theirs, f"x {peer}'s", target, is_minimum, peers, unit)


def progress(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def main(description: str, measure: Measure) -> int:
    """Measure, and print the rows: the command line of each measurement. Returns 1 while a target is missed."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON list of the rows")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds, to see that it works")
    args = parser.parse_args()
    rows = list(measure(args.quick))
    print(json.dumps([as_json(row) for row in rows], indent=1) if args.json else "\n".join(text(rows)))
    return 0 if all(row.met is not False for row in rows) else 1
