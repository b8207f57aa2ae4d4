import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.documents.deployment import Groups
from edge_agent.documents.errors import DocumentError, OperatorError
from edge_agent.documents.reading import is_newer, read_document


@pytest.mark.parametrize(
    ("wanted", "have", "newer"),
    [
        ("0.1", "0.1.0", False),
        ("0.1.0", "0.1", False),
        ("0.1.1", "0.1", True),
        ("0.10", "0.9", True),
        ("1", "0.9.9", True),
        ("0.1", "0.2.0rc1", False),
        ("9" * 5000, "0.1", False),
    ],
)
def test_versions_are_compared_by_number(wanted: str, have: str, newer: bool) -> None:
    assert is_newer(wanted, have) is newer


@given(st.binary(max_size=100))
def test_any_bytes_give_a_document_or_one_sentence(content: bytes) -> None:
    message = "groups.json "
    try:
        read_document(Groups, content, "groups.json", "0.1.0")
    except (DocumentError, OperatorError) as error:
        message = str(error)
    assert message.startswith("groups.json ")
    assert "\n" not in message


def test_unknown_fields_are_ignored() -> None:
    assert read_document(Groups, b'{"schema": 1, "new": true}', "groups.json", "0.1.0") == Groups()


@pytest.mark.parametrize("schema", [b"2", b'"1"', b"null", b"[1]", b"1.5"])
def test_another_schema_is_refused(schema: bytes) -> None:
    with pytest.raises(DocumentError, match=r"groups\.json has schema .*knows schema 1"):
        read_document(Groups, b'{"schema": ' + schema + b"}", "groups.json", "0.1.0")


def test_the_place_of_a_mistake_is_named() -> None:
    with pytest.raises(DocumentError, match=r"groups\.json is not valid: rules\.0\.group: "):
        read_document(Groups, b'{"rules": [{"group": "Not a group"}]}', "groups.json", "0.1.0")
