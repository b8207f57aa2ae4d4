"""What the control group says of memory, from files as the kernel writes them."""

from pathlib import Path

import pytest

from edge_agent.telemetry.cgroups import free_bytes, oom_kills, own_group, value_of

MB = 2**20


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A service with a limit of 100 MB in a slice with one of 60."""
    service = tmp_path / "system.slice" / "edge-agent.service"
    service.mkdir(parents=True)
    for folder, limit, current, idle in ((service, 100, 30, 10), (service.parent, 60, 40, 15)):
        (folder / "memory.max").write_text(f"{limit * MB}\n")
        (folder / "memory.current").write_text(f"{current * MB}\n")
        (folder / "memory.stat").write_text(f"anon 5\ninactive_file {idle * MB}\nactive_file 7\n")
    (service / "memory.events").write_text("low 0\nhigh 0\nmax 7\noom 2\noom_kill 2\noom_group_kill 0\n")
    return tmp_path


def test_the_group_is_found_beside_those_of_version_1(root: Path, tmp_path: Path) -> None:
    membership = tmp_path / "cgroup"
    membership.write_text("4:memory:/old\n0::/system.slice/edge-agent.service\n")
    assert own_group(root, membership) == root / "system.slice/edge-agent.service"
    membership.write_text("4:memory:/old\n0::/\n")
    assert own_group(root, membership) is None
    assert own_group(root, tmp_path / "none") is None


def test_the_tightest_limit_counts_and_idle_file_pages_are_free(root: Path) -> None:
    service = root / "system.slice/edge-agent.service"
    assert free_bytes(service, root) == 35 * MB
    (service.parent / "memory.max").write_text("max\n")
    assert free_bytes(service, root) == 80 * MB
    (service / "memory.max").write_text("max\n")
    assert free_bytes(service, root) is None


def test_kills_are_counted(root: Path) -> None:
    assert oom_kills(root / "system.slice/edge-agent.service") == 2
    assert oom_kills(root) is None


@pytest.mark.parametrize("text", ["", "oom_kill", "oom_kill x", "oom_killer 3"])
def test_what_is_no_count_is_none(text: str) -> None:
    assert value_of(text, "oom_kill") is None
