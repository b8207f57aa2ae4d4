import json
import math

import pytest

from converters.commands import arguments


def test_json_has_null_for_what_is_no_finite_number(capsys: pytest.CaptureFixture[str]) -> None:
    arguments.print_json({"errors": {"scores": math.inf}, "scores": (math.nan, 0.5)})

    def refuse(name: str) -> None:
        raise AssertionError(name)

    found = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert found == {"errors": {"scores": None}, "scores": [None, 0.5]}
