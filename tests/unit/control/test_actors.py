from pathlib import Path

import pytest

from edge_agent.control.actors import named, user_name


@pytest.mark.parametrize(("uid", "name"), [(0, "root"), (12, "anna"), (13, "uid:13"), (1, "uid:1")])
def test_users_of_this_host_have_names(tmp_path: Path, uid: int, name: str) -> None:
    users = tmp_path / "passwd"
    users.write_text("root:x:0:0::/root:/bin/sh\n\nodd\nodd:1\nanna:x:12:12::/:/bin/sh\n")
    assert user_name(uid, users) == name


def test_a_host_without_a_list_of_users(tmp_path: Path) -> None:
    assert user_name(0, tmp_path / "absent") == "uid:0"


@pytest.mark.parametrize(
    ("actor", "name"), [("uid:0", "root"), ("tcp", "tcp"), ("uid:", "uid:"), ("uid:x", "uid:x")]
)
def test_what_serving_says(actor: str, name: str) -> None:
    assert named(actor) == name
