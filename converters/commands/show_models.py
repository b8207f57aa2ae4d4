"""Models, packages and comparisons on a terminal."""

import json
from collections.abc import Sequence
from typing import Final, TextIO

from converters import arrays
from converters.commands.show import console_for, import_rich, print_table
from converters.formats.layers import LayerSize
from converters.inspection.comparison import Comparison, Ran
from converters.inspection.matching import LayerPair, described
from converters.inspection.models import Inspected, InspectedPackage, is_version
from converters.report.text import milliseconds, size
from edge_agent.documents.manifest import Manifest, Variant

OPERATORS: Final = 12
"""Types of operators that are listed."""

_NAME: Final = 44
"""Characters of a layer's name that are shown."""

_MADE_OF: Final = ("float", "evaluation", "tools", "recipe")
"""What the metadata of a manifest hold that is shown."""


def show_model(model: Inspected, stream: TextIO, most_layers: int | None) -> None:
    """Print what a model file is, with its largest layers, all if `most_layers` is None."""
    versions = ", ".join(f"{name} {number}" for name, number in model.versions.items())
    lines = [
        f"{model.path}: {model.engine} {model.precision}, {size(model.size_bytes)}, sha256 {model.sha256}",
        f"  {versions}",
        *(f"  input   {spec.name} {described(spec)}" for spec in model.inputs),
        *(f"  output  {spec.name} {described(spec)}" for spec in model.outputs),
        f"  {_operators(model)}",
        f"  {_memory(model)}",
        *_runtimes(model),
    ]
    stream.write("\n".join(lines) + "\n")
    _show_layers(model, stream, most_layers)


def show_package_content(found: InspectedPackage, stream: TextIO, most_layers: int | None) -> None:
    """Print what a package holds, with the largest layers of each variant, all if `most_layers` is None."""
    manifest = found.manifest
    golden = f", {manifest.golden.samples} golden samples" if manifest.golden else ""
    made = manifest.timestamp.strftime("%Y-%m-%d %H:%M:%S UTC")
    lines = [f"{manifest.name} {manifest.version} from {manifest.source.framework}, {made}{golden}"]
    for kind, tensors in (("input ", manifest.inputs), ("output", manifest.outputs)):
        lines += [f"  {kind}  {one.name} {one.datatype} {arrays.shown(one.shape)}" for one in tensors]
    if manifest.labels:
        lines.append(f"  classes {text_list(manifest.labels)}")
    stream.write("\n".join(lines) + "\n")
    for variant, model in zip(manifest.variants, found.models, strict=True):
        stream.write("\n".join(_variant(variant, model)) + "\n")
        _show_layers(model, stream, most_layers)
    stream.write("\n".join(_made_of(manifest)) + "\n")


def show_comparison(found: Comparison, stream: TextIO, most_layers: int | None) -> None:
    """Print both models side by side, what differs, and what running both showed."""
    stream.write(f"A  {found.a.title}\nB  {found.b.title}\n")
    _print(stream, ("", "A", "B", "B to A"), _overview(found))
    for sentence in found.signature:
        stream.write(f"- {sentence}\n")
    if found.operators:
        counts = [(name, str(a), str(b)) for name, (a, b) in found.operators.items()]
        _print(stream, ("operators", "A", "B"), counts)
    _show_pairs(found.layers, stream, most_layers)
    if variants := found.variants():
        lines = [line for label, a, b in variants for line in _metrics(label, a, b)]
        _print(stream, ("variant", "as built", "A", "B"), lines, (0, 1))
    if found.ran is not None:
        stream.write("\n".join(_ran(found.ran)) + "\n")
    else:
        stream.write(f"- {found.not_run}\n")


def text_list(words: Sequence[str], most: int = OPERATORS) -> str:
    """Return the first words, and how many more there are."""
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more


def _operators(model: Inspected) -> str:
    counts = [f"{count} {name}" for name, count in model.operators.items()]
    more = f" and {len(counts) - OPERATORS} more types" if len(counts) > OPERATORS else ""
    return f"{sum(model.operators.values())} operators: {', '.join(counts[:OPERATORS])}{more}"


def _memory(model: Inspected) -> str:
    parameters = sum(layer.parameters for layer in model.layers)
    weights = f"{parameters:,} parameters in {size(model.weight_bytes)} of weights"
    if model.activation_bytes is None or model.memory_bytes is None:
        return f"{weights}; activations depend on shapes that are not known before a run"
    return (
        f"{weights}, {size(model.activation_bytes)} of activations at their peak: about "
        f"{size(model.memory_bytes)} of memory beside the runtime"
    )


def _runtimes(model: Inspected) -> list[str]:
    return [
        f"  runs on {found}" if is_version(name, found) else f"  not on {name}: {found}"
        for name, found in model.runtimes.items()
    ]


def _show_layers(model: Inspected, stream: TextIO, most: int | None) -> None:
    largest = sorted(model.layers, key=lambda layer: -layer.weight_bytes)
    shown = largest if most is None else largest[:most]
    if not shown:
        return
    whole = max(1, model.weight_bytes)
    lines = [_layer(layer, whole) for layer in shown]
    _print(stream, ("layer", "operator", "weights", "share", "parameters"), lines, (0, 1))
    if len(shown) < len(largest):
        stream.write(f"  and {len(largest) - len(shown)} smaller layers; see them with --layers all\n")


def _layer(layer: LayerSize, whole: int) -> tuple[str, ...]:
    share = f"{100 * layer.weight_bytes / whole:.1f} %"
    return (
        _shortened(layer.name), layer.operator, size(layer.weight_bytes), share, f"{layer.parameters:,}"
    )  # fmt: skip


def _variant(variant: Variant, model: Inspected) -> list[str]:
    requires = variant.requires
    needs = [*requires.architectures, *requires.runtimes, *requires.execution_providers]
    if requires.memory_bytes is not None:
        needs.append(f"{size(requires.memory_bytes)} of memory")
    file = variant.file
    packed = "" if file.compression == "none" else f", travels as {size(file.size_bytes)} of {file.compression}"
    metrics = ", ".join(f"{name} {value:g}" for name, value in variant.metrics.items())
    tolerances = ", ".join(f"{name} {one.atol:g}" for name, one in variant.tolerances.items())
    lines = [
        f"  {variant.engine} {variant.precision}: {size(file.kept_size_bytes)}{packed}; for "
        f"{', '.join(needs) or 'any'}; {metrics}",
        f"    {_memory(model)}",
    ]
    if tolerances:
        lines.append(f"    golden answers may be off by: {tolerances}")
    return lines + [f"  {line}" for line in _runtimes(model)]


def _made_of(manifest: Manifest) -> list[str]:
    lines = []
    for name in _MADE_OF:
        value = manifest.metadata.get(name)
        if isinstance(value, dict) and value:
            said = ", ".join(f"{key} {_plain(one)}" for key, one in value.items() if one is not None)
            lines.append(f"  {name}: {said}")
    return lines


def _overview(found: Comparison) -> list[tuple[str, ...]]:
    a, b = found.a.model, found.b.model
    lines: list[tuple[str, ...]] = [
        ("format", f"{a.engine} {a.precision}", f"{b.engine} {b.precision}", ""),
        ("size", size(a.size_bytes), size(b.size_bytes), _ratio(a.size_bytes, b.size_bytes)),
        ("weights", size(a.weight_bytes), size(b.weight_bytes), _ratio(a.weight_bytes, b.weight_bytes)),
    ]
    if a.activation_bytes and b.activation_bytes:
        peak = (size(a.activation_bytes), size(b.activation_bytes))
        lines.append(("activations", *peak, _ratio(a.activation_bytes, b.activation_bytes)))
    for name in dict.fromkeys((*found.a.metrics, *found.b.metrics)):
        built = [side.metrics.get(name) for side in (found.a, found.b)]
        lines.append((f"built: {name}", *("-" if one is None else f"{one:g}" for one in built), ""))
    if found.ran is not None:
        lines += _measured(found.ran)
    return lines


def _measured(ran: Ran) -> list[tuple[str, ...]]:
    a, b = ran.measured
    lines: list[tuple[str, ...]] = [
        ("runtime", *ran.runtimes, ""),
        ("latency", milliseconds(a.latency_ms), milliseconds(b.latency_ms), _ratio(a.latency_ms, b.latency_ms)),
        ("memory of runs", size(a.memory_bytes), size(b.memory_bytes), _ratio(a.memory_bytes, b.memory_bytes)),
    ]
    if ran.scores is not None:
        one, other = ran.scores
        change = f"{round(-ran.metric.drop(one, other), 2) + 0.0:+.2f} points"
        lines.append((ran.metric.name, ran.metric.text(one), ran.metric.text(other), change))
    return lines


def _ran(ran: Ran) -> list[str]:
    kind = "generated" if ran.generated else "given"
    what = "choose the same class" if ran.is_classifier else "agree"
    lines = [f"- On {ran.samples} {kind} samples they {what} to {100 * ran.agreement:.2f} %."]
    for name, error in ran.errors.items():
        share = f"{100 * error / ran.scales[name]:.3g} % of its range"
        lines.append(f"- The largest difference of output '{name}' is {error:.4g}, {share}.")
    return lines


def _show_pairs(pairs: Sequence[LayerPair], stream: TextIO, most: int | None) -> None:
    changed = [pair for pair in pairs if pair.change_bytes]
    shown = changed if most is None else changed[:most]
    if not shown:
        return
    lines = [
        (_shortened(pair.name), _size(pair.a_bytes), _size(pair.b_bytes), _ratio(pair.a_bytes, pair.b_bytes))
        for pair in shown
    ]
    _print(stream, ("weights of layer", "A", "B", "B to A"), lines)
    if len(shown) < len(changed):
        stream.write(f"  and {len(changed) - len(shown)} smaller differences; see them with --layers all\n")


def _print(
    stream: TextIO, headings: Sequence[str], lines: Sequence[Sequence[str]], left: Sequence[int] = (0,)
) -> None:
    rich = import_rich()
    print_table(console_for(rich, stream), rich, headings, lines, left=left)


def _metrics(label: str, a: Variant | None, b: Variant | None) -> list[tuple[str, ...]]:
    """Return a line for the size and for each metric; the first one has the variant's name."""
    names = dict.fromkeys(name for side in (a, b) if side for name in side.metrics)
    pair = [_size(side.file.kept_size_bytes if side else None) for side in (a, b)]
    lines: list[tuple[str, ...]] = [(label, "size", *pair)]
    for name in names:
        values = [side.metrics.get(name) if side else None for side in (a, b)]
        lines.append(("", name, *("-" if one is None else f"{one:g}" for one in values)))
    return lines


def _ratio(a: float | None, b: float | None) -> str:
    return f"{b / a:.2f}x" if a and b is not None else ""


def _size(count: int | None) -> str:
    return "-" if count is None else size(count)


def _shortened(name: str) -> str:
    if len(name) <= _NAME:
        return name
    return f"{name[: _NAME // 2]}...{name[-(_NAME // 2 - 3) :]}"


def _plain(value: object) -> str:
    return json.dumps(value) if isinstance(value, (dict, list, bool)) else str(value)
