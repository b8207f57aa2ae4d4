import argparse
import dataclasses
import re
import tomllib
from pathlib import Path

import pytest

from converters.cli import build_parser
from converters.conversion.recipe import Recipe, parse
from converters.conversion.reference import BEGIN, END, attribute_docstrings, filled, render, sections

ROOT = Path(__file__).parents[4]
PAGE = ROOT / "docs" / "converters.md"
PAGES = (PAGE, *(ROOT / name for name in ("README.md", "docs/README.md", "docs/decisions/README.md")))


class TestTheGuide:
    def test_its_tables_are_those_of_the_code(self):
        page = PAGE.read_text(encoding="utf-8")
        assert filled(page) == page, "run: python -m converters.conversion.reference docs/converters.md"

    def test_it_names_every_option_of_the_command_line(self):
        text = PAGE.read_text(encoding="utf-8")
        page = text.replace(render(), "")
        lacking = sorted(option for option in _options() if not re.search(rf"{option}\b", page))
        assert lacking == []

    def test_its_recipes_are_recipes(self):
        blocks = re.findall(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert blocks
        for block in blocks:
            parse(tomllib.loads(block), "docs/converters.md")

    def test_links_lead_somewhere(self):
        for page in PAGES:
            links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
            local = [link for link in links if "://" not in link]
            assert [link for link in local if not (page.parent / link).exists()] == []

    def test_its_own_sections_are_found(self):
        page = PAGE.read_text(encoding="utf-8")
        headings = re.findall(r"^## (.+)$", page, flags=re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert set(re.findall(r"\]\(#([^)]+)\)", page)) <= anchors


class TestCommandLine:
    def test_an_unknown_option_leads_to_the_help_of_its_command(self, capsys):
        with pytest.raises(SystemExit) as stopped:
            build_parser().parse_args(["build", "model.onnx", "--precission", "int8"])
        assert stopped.value.code == 2
        told = "edge-convert: '--precission' is no option of this command; see 'edge-convert build --help'.\n"
        assert capsys.readouterr().err == told

    def test_every_option_says_what_it_is(self):
        lacking = [
            option.option_strings
            for command in _commands()
            for option in command._actions
            if option.option_strings and len(option.help or "") < 10
        ]
        assert lacking == []


class TestReference:
    def test_it_has_every_section_and_key(self):
        found = {name: {key.name for key in keys} for name, keys in sections()}
        assert {
            "",
            "data",
            "generate",
            "prune",
            "quantize",
            "preprocess.image",
            "postprocess",
            "gate",
        } <= found.keys()
        fields = {field.name for field in dataclasses.fields(Recipe)}
        assert fields == found[""] | {name.split(".")[0] for name in found if name}

    def test_every_key_says_what_it_means(self):
        assert [
            f"{name}.{key.name}" for name, keys in sections() for key in keys if len(key.meaning) < 15
        ] == []

    def test_limits_and_choices_are_told(self):
        table = render()
        assert "one of `minmax`, `entropy`, `percentile`" in table
        assert "> 50 and ≤ 100" in table

    def test_a_page_without_the_marks_is_refused(self):
        with pytest.raises(ValueError, match="lacks the marks"):
            filled("no marks")
        assert filled(f"a {BEGIN} old {END} b").startswith(f"a {BEGIN}\n\n**At the top**")

    def test_a_text_below_a_field_is_its_meaning(self):
        assert (
            attribute_docstrings(Recipe)["weights"] == "The state dict that goes into what the factory returns."
        )


def _commands() -> list[argparse.ArgumentParser]:
    return list(next(action for action in build_parser()._actions if action.choices).choices.values())


def _options() -> set[str]:
    return {
        option
        for command in _commands()
        for action in command._actions
        for option in action.option_strings
        if option.startswith("--") and option not in ("--help", "--dry-run")
    }
