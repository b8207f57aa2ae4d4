import io

import pytest

from converters.commands import show
from support import reports


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_table_has_at_most_100_columns_and_no_colours_in_a_file() -> None:
    stream = io.StringIO()

    show.show_table(reports.example(), stream)

    assert max(map(len, stream.getvalue().splitlines())) <= 100
    assert "\x1b" not in stream.getvalue()
    assert "\u2026" not in stream.getvalue()
    assert "onnx int8 (x86_64)" in stream.getvalue()
    assert "download" in stream.getvalue()


@pytest.mark.parametrize("width", [80, 100, 160])
def test_terminal_gets_colours_and_keeps_its_width(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal()

    show.show_table(reports.example(), stream)

    assert "\x1b[" in stream.getvalue()
    plain = [line for line in stream.getvalue().splitlines() if "\x1b" not in line]
    assert max(map(len, plain), default=0) <= min(100, width)


def test_markup_in_names_is_text() -> None:
    stream = io.StringIO()

    show.print_table(
        show.console_for(show.import_rich(), stream), show.import_rich(), ("[red]a", "b"), [("[bold]x[/]", "1")]
    )

    assert "[red]a" in stream.getvalue()
    assert "[bold]x[/]" in stream.getvalue()
