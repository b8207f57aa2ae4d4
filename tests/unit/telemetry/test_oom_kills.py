"""Kills for lack of memory, as the kernel counts them."""

from pathlib import Path

from edge_agent.telemetry.oom_kills import RECENT_S, OomKills, count


def test_the_group_counts_and_without_one_that_does_the_system(tmp_path: Path) -> None:
    vmstat = tmp_path / "vmstat"
    vmstat.write_text("nr_free_pages 3\noom_kill 5\n")
    assert count(None, vmstat) == 5
    assert count(tmp_path / "group", vmstat) == 5
    (tmp_path / "group").mkdir()
    (tmp_path / "group" / "memory.events").write_text("oom 2\noom_kill 2\n")
    assert count(tmp_path / "group", vmstat) == 2
    assert count(None, tmp_path / "nothing") is None


def test_an_old_kill_explains_nothing() -> None:
    now, kills = 0.0, 0
    seen = OomKills(lambda: kills, lambda: now)
    assert not seen.were_any
    kills += 1
    assert seen.were_any
    for _ in range(2):
        now += RECENT_S
        seen.look()
    assert not seen.were_any
    now += RECENT_S / 2
    kills += 1
    seen.look()
    assert seen.were_any
    seen.begin()
    assert not seen.were_any


def test_a_kernel_that_does_not_count_says_nothing() -> None:
    assert not OomKills(lambda: None).were_any
