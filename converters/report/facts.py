"""What a report says in a few figures and in lists."""

import math
from collections.abc import Sequence

from converters import arrays
from converters.report.markup import escaped, heading_row, prose_cell, row_heading, table
from converters.report.model import Report, VariantRow
from converters.report.text import milliseconds, points, size
from edge_agent.documents.tensors import TensorSpec


def tiles(report: Report) -> list[tuple[str, str]]:
    """Return the figures of the variant that devices try first, against the source model."""
    first = next((row for row in report.rows if row.packaged), None)
    if first is None:
        return []
    found = [("first choice", first.label)]
    if first.size_bytes is not None:
        ratio = first.size_bytes / max(1, report.source_bytes)
        found.append(("size", f"{size(first.size_bytes)} ({ratio:.2f}x)"))
    if first.latency_ms is not None:
        found.append(("latency", f"{milliseconds(first.latency_ms)}{_speed(report, first)}"))
    if first.score is not None:
        found.append((report.metric.name, report.metric.text(first.score)))
    if first.drop is not None:
        found.append(("points lost", points(first.drop)))
    return found


def listed(report: Report) -> str:
    """Return the facts about source, data and limits as a list of terms."""
    evaluation = {
        name.replace("_", " "): value for name, value in report.evaluation.items() if value is not None
    }
    pairs: list[tuple[str, Sequence[str]]] = [
        ("source", (f"{report.framework}, {size(report.source_bytes)}",)),
        ("source sha256", (report.source_sha256,)),
        ("inputs", tuple(map(tensor, report.inputs))),
        ("outputs", tuple(map(tensor, report.outputs))),
        ("in the graph", report.preprocessing),
        *((name, (_plain(value),)) for name, value in evaluation.items()),
        ("golden samples", (str(report.golden_samples),)),
        ("gate", _limits(report)),
    ]
    terms = [
        f"<dt>{escaped(name)}</dt><dd>{'<br>'.join(map(escaped, values))}</dd>"
        for name, values in pairs
        if values
    ]
    return f'<dl class="facts">{"".join(terms)}</dl>'


def tools(report: Report) -> str:
    """Return the table of the tools' versions."""
    rows = [f"<tr>{row_heading(name)}{prose_cell(version)}</tr>" for name, version in report.tools.items()]
    return table("What this was made with", heading_row(("tool", "version"), ()), rows)


def tensor(spec: TensorSpec) -> str:
    """Return a tensor's signature for a person: `image FP32 [any, 28, 28]`."""
    return f"{spec.name} {spec.datatype} {arrays.shown(spec.shape)}"


def _speed(report: Report, first: VariantRow) -> str:
    """Say how many times as fast as the float model a variant is, where that one was timed too."""
    whole = next(
        (
            row
            for row in report.rows
            if row.precision == "fp32" and row.engine == first.engine and row.latency_ms
        ),
        None,
    )
    if whole is None or whole is first or not whole.latency_ms or not first.latency_ms:
        return ""
    return f" ({whole.latency_ms / first.latency_ms:.1f}x as fast)"


def _limits(report: Report) -> tuple[str, ...]:
    gate = report.gate
    said = []
    if math.isfinite(gate.max_drop):
        said.append(f"at most {gate.max_drop:g} points lost")
    if gate.min_agreement is not None:
        said.append(f"agreement of at least {100 * gate.min_agreement:g} %")
    if gate.max_size_bytes is not None:
        said.append(f"at most {gate.max_size_bytes:,} bytes")
    if gate.max_latency_ms is not None:
        said.append(f"at most {gate.max_latency_ms:g} ms a run")
    return tuple(said)


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
