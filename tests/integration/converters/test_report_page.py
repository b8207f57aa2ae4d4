"""The report in a real browser: it opens, shows its charts and asks nobody for anything."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from converters.report.html import render
from support import browser, reports

pytestmark = pytest.mark.browser

LIGHT_BLUE = (0x2B, 0x62, 0xB5)
DARK_BLUE = (0x79, 0xA8, 0xF0)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render(reports.example()), encoding="utf-8")
    return path


def changed(page: Path, target: Path, *changes: tuple[str, str]) -> Path:
    content = page.read_text(encoding="utf-8")
    for before, after in changes:
        assert before in content
        content = content.replace(before, after)
    target.write_text(content, encoding="utf-8")
    return target


def share_of(colour: tuple[int, int, int], image: Path) -> float:
    pixels = np.asarray(Image.open(image).convert("RGB"), dtype=int)
    return float(np.mean(np.abs(pixels - colour).max(axis=-1) < 6))


def test_page_opens_without_a_word_in_the_console_and_with_its_charts(page: Path, tmp_path: Path) -> None:
    opened = browser.open_page(page, tmp_path / "profile")

    assert opened.console == ()
    assert opened.document.count('<svg viewBox="') == opened.document.count('role="img"') == 15
    assert "<h1>animals" in opened.document


def test_request_of_a_page_would_be_noticed(page: Path, tmp_path: Path) -> None:
    bad = changed(page, tmp_path / "bad.html", ("</main>", '<img src="http://127.0.0.1:9/x.png"></main>'))

    opened = browser.open_page(bad, tmp_path / "profile")

    assert len(opened.console) == 1
    assert "Content Security Policy" in opened.console[0]


@pytest.mark.parametrize(("dark", "colour"), [(False, LIGHT_BLUE), (True, DARK_BLUE)])
def test_charts_are_drawn_in_the_colours_of_the_scheme(
    page: Path, tmp_path: Path, dark: bool, colour: tuple[int, int, int]
) -> None:
    image = browser.screenshot(page, tmp_path / "profile", tmp_path / "shot.png", 1280, 5000, dark=dark)

    assert share_of(colour, image) > 0.002


@pytest.mark.parametrize("width", [500, 800, 1280])
def test_page_is_as_wide_as_its_window(page: Path, tmp_path: Path, width: int) -> None:
    policy = re.search(r"<meta http-equiv=[^>]*>", page.read_text(encoding="utf-8"))
    assert policy is not None
    script = "<script>document.title = `${document.documentElement.scrollWidth} wide`</script></body>"
    measuring = changed(page, tmp_path / "wide.html", (policy.group(), ""), ("</body>", script))

    opened = browser.open_page(measuring, tmp_path / "profile", width)

    assert f"<title>{width} wide</title>" in opened.document


def test_names_are_text_and_never_run(tmp_path: Path) -> None:
    path = tmp_path / "evil.html"
    path.write_text(render(reports.evil()), encoding="utf-8")

    opened = browser.open_page(path, tmp_path / "profile")

    assert opened.console == ()
    assert "<script" not in opened.document
