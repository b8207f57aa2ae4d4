import json
import re
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

from edge_agent.documents.asyncapi import PARAMETERS, Channel, channels, document, render

CHECKOUT = Path(__file__).resolve().parents[3]


def test_the_file_in_the_documentation_is_current() -> None:
    assert (CHECKOUT / "docs/asyncapi.json").read_text() == render(), (
        "run: python -m edge_agent.documents.asyncapi docs/asyncapi.json"
    )


def test_every_reference_leads_somewhere() -> None:
    content = document()
    references = set(re.findall(r'"\$ref": "#/([^"]*)"', render()))
    assert "components/schemas/Event" in references
    for reference in references:
        found: Any = reduce(lambda part, name: part[name], reference.split("/"), content)
        assert isinstance(found, dict)


def test_fields_are_described() -> None:
    event = document()["components"]["schemas"]["EventMessage"]
    assert "random for each database" in event["properties"]["id"]["description"]


@pytest.mark.parametrize("channel", channels(), ids=lambda channel: channel.name)
def test_every_parameter_of_an_address_is_explained(channel: Channel) -> None:
    names = set(re.findall(r"{(\w+)}", channel.address))
    described = json.loads(render())["channels"][channel.name]
    assert set(described["parameters"]) == names <= set(PARAMETERS)
