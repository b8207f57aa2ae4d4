import json
from pathlib import Path

import pytest

from edge_agent.documents.schemas import DOCUMENTS, attribute_docstrings, render, schema, write
from edge_agent.documents.settings import SequenceSettings

COMMITTED = Path(__file__).parents[3] / "docs" / "schemas"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_committed_schema_is_current(name: str) -> None:
    committed = (COMMITTED / f"{name}.json").read_text()
    assert committed == render(name), "run: python -m edge_agent.documents.schemas docs/schemas"


def test_no_stray_schema_is_committed() -> None:
    assert {path.stem for path in COMMITTED.glob("*.json")} == set(DOCUMENTS)


def test_write_makes_the_folder_and_one_file_for_each_document(tmp_path: Path) -> None:
    paths = write(tmp_path / "new" / "schemas")
    assert [path.name for path in paths] == [f"{name}.json" for name in DOCUMENTS]
    assert all(json.loads(path.read_text())["$schema"].startswith("https://json-schema.org") for path in paths)


def test_settings_refuse_unknown_keys_and_documents_ignore_unknown_fields() -> None:
    definitions = schema("settings")["$defs"].values()
    assert all(definition["additionalProperties"] is False for definition in definitions)
    assert "additionalProperties" not in schema("manifest")


def test_attributes_are_described() -> None:
    store = schema("settings")["$defs"]["StoreSettings"]["properties"]
    assert store["root"]["description"] == "Path of the trusted root.json that came with the device."
    assert attribute_docstrings(SequenceSettings).keys() == {"max_count", "idle_s"}
    manifest = schema("manifest")["properties"]
    assert manifest["labels"]["description"].startswith("Class names in the order")
