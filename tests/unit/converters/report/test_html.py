import dataclasses
import os
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from converters.report.html import render
from converters.report.model import Pruning, Report
from converters.report.text import size
from support import reports

VOID = ("meta", "link", "br", "img")


class Page(HTMLParser):
    """Checks that elements are closed in order, and collects what a test asks for."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.labels: list[str] = []
        self.headings: list[str] = []
        self.names: list[str] = []
        self.feed(content)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        found = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [found["id"] or ""] if "id" in found else []
        self.targets += [found[name] or "" for name in ("src", "href", "xlink:href") if name in found]
        self.labels += [found["aria-label"] or ""] if tag == "svg" else []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def bare() -> Report:
    """Return the example without what only makes further charts."""
    own = reports.example()
    return dataclasses.replace(
        own,
        rows=tuple(dataclasses.replace(row, per_class={}) for row in own.rows),
        histograms=(),
        sensitivities=(),
        search=(),
        pruning=None,
        recipe={},
        tools={},
        notes=(),
    )


@pytest.fixture(scope="module")
def content() -> str:
    return render(reports.example())


@pytest.fixture(scope="module")
def page(content: str) -> Page:
    return Page(content)


def test_every_section_is_there(page: Page) -> None:
    assert page.headings == [
        "Variants",
        "What is paid for what",
        "Change per class",
        "Calibration",
        "The layers that lose most",
        "Pruning",
        "Facts",
    ]


def test_nothing_is_asked_for_and_nothing_runs(content: str, page: Page) -> None:
    assert all(target.startswith("#") or target == "data:," for target in page.targets)
    assert "script" not in page.names
    assert "@import" not in content
    assert "url(http" not in content
    assert "default-src 'none'" in content


def test_ids_are_unique_and_found(content: str, page: Page) -> None:
    assert len(page.ids) == len(set(page.ids))
    assert {target[1:] for target in page.targets if target.startswith("#")} <= set(page.ids)


def test_charts_say_in_words_what_they_show(page: Page) -> None:
    assert len(page.labels) == 15
    assert page.labels[0].startswith("accuracy against size of 9 variants; on the Pareto front: ")
    assert any("the chosen range is 0 to 12.52, 0.1 % lie outside" in label for label in page.labels)
    assert any(label.startswith("Share of weights that are zero, by layer: ") for label in page.labels)


def test_pruned_weights_are_zero(content: str) -> None:
    assert "80.0 % of the prunable weights are zero. The float model went from " in content
    assert "Zero weights shrink what travels" in content


def test_pruned_channels_are_gone() -> None:
    pruning = Pruning(
        0.5, {"a": 0.5}, 4_000, 2_000, method="channels", size_before_bytes=8_000, size_after_bytes=2_000
    )
    found = render(dataclasses.replace(bare(), pruning=pruning))

    assert "50.0 % of the prunable channels are gone." in found
    assert (
        f"from {size(8_000)} to {size(2_000)}, which is 0.25x. Compressed, it went from {size(4_000)} to"
        in found
    )
    assert "Zero weights" not in found
    assert any(label.startswith("Share of channels that are gone") for label in Page(found).labels)


def test_reasons_and_verdicts_are_in_the_table(content: str) -> None:
    assert content.count(">passed</span>") == 7
    assert content.count(">left out</span>") == 2
    assert "it loses 84.00 points of accuracy, 1 allowed" in content
    assert "tflite-runtime 2.14.0 gets it wrong" in content


def test_equal_reports_give_equal_bytes_in_any_process(content: str) -> None:
    script = "from converters.report.html import render\nfrom support import reports\n"
    script += "import sys\nsys.stdout.write(render(reports.example()))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == content


def test_without_times_nothing_depends_on_the_run() -> None:
    own = bare()
    slower = dataclasses.replace(
        own,
        rows=tuple(
            dataclasses.replace(
                row,
                latency_ms=None if row.latency_ms is None else 3 * row.latency_ms,
                memory_bytes=7,
                latencies_ms={},
                memories_bytes={},
                reason=row.reason.replace("0.48 ms", "1.44 ms"),
            )
            for row in own.rows
        ),
    )

    content = render(own, with_times=False)

    assert content == render(slower, with_times=False)
    assert "latency of" not in content
    assert "a run takes too long, 0.45 allowed" in content
    assert render(own) != render(slower)


def test_names_from_outside_stay_text() -> None:
    content = render(reports.evil())

    page = Page(content)
    assert "script" not in page.names
    assert "&lt;script&gt;" in content
    assert "\x00" not in content
    assert "\u732b" in content
    assert any("alert(1)" in label for label in page.labels)


def test_sections_without_content_are_left_out() -> None:
    own = bare()
    rows = tuple(dataclasses.replace(row, latency_ms=None) for row in own.rows[:2])

    assert Page(render(dataclasses.replace(own, rows=rows))).headings == [
        "Variants",
        "What is paid for what",
        "Facts",
    ]


def test_without_scores_agreement_is_drawn() -> None:
    own = bare()
    scoreless = dataclasses.replace(
        own, float_score=None, rows=tuple(dataclasses.replace(row, score=None) for row in own.rows)
    )

    assert Page(render(scoreless)).labels[0].startswith("agreement against size of 9 variants")


def test_a_report_without_any_packaged_variant_can_be_shown() -> None:
    own = bare()
    lost = dataclasses.replace(
        own, rows=tuple(dataclasses.replace(row, packaged=False, reason="too slow") for row in own.rows)
    )

    assert "0 of 9 variants passed" in render(lost)
