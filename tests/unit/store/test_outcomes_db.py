import sqlite3
import subprocess
import sys
import tempfile
from collections import defaultdict
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.documents.errors import StorageError
from edge_agent.policy.prediction_id import Prediction
from edge_agent.store import outcomes_db
from edge_agent.store.outcomes_db import Mark, Outcome, OutcomesDb, read_sums

NOW_S = 1_790_000_000


def outcome(
    number: int,
    *,
    arm: str = "a",
    bucket: int = 0,
    time_s: int = NOW_S,
    epoch: int = 1,
    experiment: str = "e",
    **values: float,
) -> Outcome:
    prediction = Prediction("m", experiment, epoch, arm, bucket, time_s, number.to_bytes(8, "big"))
    return Outcome(prediction, values or {"correct": 1.0})


def totals(path: Path) -> dict[tuple[int, str, int, str], tuple[int, float, float]]:
    return {
        (epoch.epoch, sums.arm, sums.bucket, sums.metric): (sums.n, sums.sum, sums.sum_squares)
        for epoch in read_sums(path).epochs
        for sums in epoch.sums
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outcomes.db"


def test_sums_are_kept_by_arm_bucket_and_metric(path: Path) -> None:
    db = OutcomesDb(path)
    taken = db.record(
        [
            outcome(1, correct=1.0, revenue=2.5),
            outcome(2, correct=0.0),
            outcome(3, arm="b", bucket=7, revenue=-3.0),
            outcome(4, epoch=0, experiment="m", revenue=4.0),
        ],
        0,
    )
    assert taken == ["accepted"] * 4
    assert totals(path) == {
        (1, "a", 0, "correct"): (2, 1.0, 1.0),
        (1, "a", 0, "revenue"): (1, 2.5, 6.25),
        (1, "b", 7, "revenue"): (1, -3.0, 9.0),
        (0, "a", 0, "revenue"): (1, 4.0, 16.0),
    }
    assert [(found.model, found.experiment) for found in read_sums(path).epochs] == [("m", "e"), ("m", "m")]
    db.close()


def test_what_was_taken_once_is_refused_over_restarts_and_folds(path: Path) -> None:
    for _ in range(3):
        db = OutcomesDb(path)
        db.record([outcome(number) for number in range(100)], 0)
        assert db.record([outcome(5), outcome(1000), outcome(1000)], 0)[0] == "duplicate"
        db.close()
    db = OutcomesDb(path)
    db.record([outcome(number) for number in range(2000, 2000 + outcomes_db.FOLD_ROWS)], 0)
    assert db.record([outcome(5), outcome(2000)], 0) == ["duplicate", "duplicate"]
    db.close()
    assert totals(path) == {(1, "a", 0, "correct"): (101 + outcomes_db.FOLD_ROWS,) * 3}


def test_an_outcome_is_taken_whole_or_not_at_all(path: Path) -> None:
    db = OutcomesDb(path)
    db.record([outcome(1, correct=1.0)], 0)
    assert db.record([outcome(1, revenue=2.0, correct=1.0)], 0) == ["duplicate"]
    assert db.record([outcome(1, revenue=2.0)], 0) == ["accepted"]
    assert totals(path)[1, "a", 0, "revenue"] == (1, 2.0, 4.0)
    db.close()


def test_late_ones_are_refused_and_forgotten_rows_never_count_again(path: Path) -> None:
    db = OutcomesDb(path)
    assert db.record([outcome(1, time_s=NOW_S - 100)], NOW_S - 99) == ["late"]
    many = [outcome(number, time_s=NOW_S - number % 1000) for number in range(outcomes_db.FOLD_ROWS)]
    db.record(many, NOW_S - 2000)
    # The clock jumps a year ahead: everything is late, and forgotten.
    assert db.record([outcome(3)], NOW_S + 31_536_000) == ["late"]
    db.close()
    db = OutcomesDb(path)
    # It is set right again: what may have been taken before stays refused, what is new is taken.
    later = outcome(9, time_s=NOW_S + 5)
    assert db.record([many[0], many[500], later], NOW_S - 2000) == ["late", "late", "accepted"]
    db.close()
    assert totals(path) == {(1, "a", 0, "correct"): (outcomes_db.FOLD_ROWS + 1,) * 3}


def test_a_long_absence_is_forgotten_in_pieces(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes_db, "PRUNE_ROWS", 100)
    monkeypatch.setattr(outcomes_db, "FOLD_ROWS", 10)
    db = OutcomesDb(path)
    db.record([outcome(number, time_s=NOW_S + number) for number in range(350)], 0)
    counts = []
    for _ in range(5):
        db.record([], NOW_S + 10_000)
        with closing(sqlite3.connect(path)) as connection:
            counts.append(connection.execute("SELECT count(*) FROM seen").fetchone()[0])
    assert counts == [250, 150, 50, 0, 0]
    db.close()


def test_an_epoch_has_a_limited_number_of_metrics(path: Path) -> None:
    db = OutcomesDb(path)
    for number in range(outcomes_db.METRICS_LIMIT):
        assert db.record([outcome(number, **{f"m{number}": 1.0})], 0) == ["accepted"]
    assert db.record([outcome(1000, one_more=1.0)], 0) == ["crowded"]
    assert db.record([outcome(1001, arm="b", m1=1.0)], 0) == ["accepted"]
    assert db.record([outcome(1002, epoch=2, one_more=1.0)], 0) == ["accepted"]
    db.close()


def test_a_reader_is_told_what_changed_since_its_mark(path: Path) -> None:
    assert read_sums(path).epochs == ()
    db = OutcomesDb(path)
    db.record([outcome(1), outcome(2, epoch=2)], 0)
    first = read_sums(path)
    assert [epoch.epoch for epoch in first.epochs] == [1, 2]
    assert read_sums(path, first.mark).epochs == ()
    db.record([outcome(3, epoch=2)], 0)
    second = read_sums(path, first.mark)
    assert [(epoch.epoch, epoch.sums[0].n) for epoch in second.epochs] == [(2, 2)]
    db.record([outcome(number) for number in range(10, 10 + outcomes_db.FOLD_ROWS)], 0)
    third = read_sums(path, second.mark)
    assert [epoch.epoch for epoch in third.epochs] == [1]
    assert third.epochs[0].revision > second.epochs[0].revision > first.epochs[1].revision
    assert read_sums(path, third.mark).epochs == ()
    assert len(read_sums(path, Mark("another", third.mark.revision)).epochs) == 2
    db.close()
    assert read_sums(path) == read_sums(path)
    assert read_sums(path).mark == third.mark


def test_a_reader_neither_blocks_the_writer_nor_sees_half_a_commit(path: Path) -> None:
    db = OutcomesDb(path)
    db.record([outcome(1)], 0)
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM fresh").fetchone() == (1,)
        db.record([outcome(number) for number in range(2, 3000)], 0)
        assert reader.execute("SELECT count(*) FROM fresh").fetchone() == (1,)
    assert totals(path)[1, "a", 0, "correct"][0] == 2999
    db.close()


def test_a_reader_reads_what_a_killed_writer_left(path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; sys.path.insert(0, sys.argv[2]);"
        "from test_outcomes_db import OutcomesDb, outcome;"
        "db = OutcomesDb(Path(sys.argv[1])); db.record([outcome(1)], 0); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program, path, Path(__file__).parent], check=False)
    assert path.with_name("outcomes.db-wal").exists()
    assert totals(path) == {(1, "a", 0, "correct"): (1, 1.0, 1.0)}


@pytest.mark.parametrize(
    "damage", [b"not a database at all, but long enough" * 40, b"SQLite format 3\0" + b"\xff" * 5000]
)
def test_a_damaged_file_is_set_aside_and_a_new_one_begun(path: Path, damage: bytes) -> None:
    path.write_bytes(damage)
    with pytest.raises(StorageError):
        read_sums(path)
    db = OutcomesDb(path)
    assert db.record([outcome(1)], 0) == ["accepted"]
    assert db.set_aside is not None
    assert db.set_aside.read_bytes() == damage
    assert totals(path) == {(1, "a", 0, "correct"): (1, 1.0, 1.0)}
    db.close()


def test_damage_that_shows_while_it_is_used_is_repaired_by_a_new_file(path: Path) -> None:
    db = OutcomesDb(path)
    db.record([outcome(number) for number in range(outcomes_db.FOLD_ROWS)], 0)
    db.close()
    before = read_sums(path).mark.database
    content = bytearray(path.read_bytes())
    with closing(sqlite3.connect(path)) as connection:
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'seen'").fetchone()
    content[(root - 1) * 512 : root * 512] = b"\xa5" * 512
    path.write_bytes(content)
    db = OutcomesDb(path)
    assert db.record([outcome(1)], 0) == ["accepted"]
    assert db.set_aside is not None
    assert read_sums(path).mark.database != before
    db.close()


def test_a_full_disk_takes_nothing_and_recovers(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    db = OutcomesDb(path)
    db.record([outcome(1)], 0)
    size = db._connection.execute("PRAGMA page_count").fetchone()[0]  # type: ignore[union-attr]
    db._connection.execute(f"PRAGMA max_page_count={size}")  # type: ignore[union-attr]
    with pytest.raises(StorageError, match="full"):
        db.record([outcome(number) for number in range(500)], 0)
    assert totals(path) == {(1, "a", 0, "correct"): (1, 1.0, 1.0)}
    assert db.set_aside is None
    assert db.record([outcome(1), outcome(2)], 0) == ["duplicate", "accepted"]
    db.close()


def test_a_folder_that_is_gone_is_one_sentence(tmp_path: Path) -> None:
    db = OutcomesDb(tmp_path / "gone" / "outcomes.db")
    with pytest.raises(StorageError, match="check its disk"):
        db.record([outcome(1)], 0)


def test_a_file_of_a_newer_agent_is_left_alone(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version=9")
    with pytest.raises(StorageError, match="version 9"):
        OutcomesDb(path).record([outcome(1)], 0)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.lists(
            st.tuples(
                st.integers(0, 30), st.sampled_from(["x", "y"]), st.sampled_from([1, 2]), st.integers(-5, 5)
            ),
            max_size=12,
        ),
        max_size=8,
    ),
    st.booleans(),
)
def test_the_sums_are_those_of_what_was_accepted(
    batches: list[list[tuple[int, str, int, int]]], reopen: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(outcomes_db, "FOLD_ROWS", 7)
        path = Path(folder) / "outcomes.db"
        db = OutcomesDb(path)
        model: dict[tuple[int, str], float] = {}
        expected: dict[str, list[float]] = defaultdict(lambda: [0, 0.0, 0.0])
        for batch in batches:
            verdicts = db.record([outcome(nonce, **{metric: x}) for nonce, metric, _, x in batch], 0)
            for (nonce, metric, _, x), verdict in zip(batch, verdicts, strict=True):
                assert verdict == ("duplicate" if (nonce, metric) in model else "accepted")
                if verdict == "accepted":
                    model[nonce, metric] = x
                    expected[metric][0] += 1
                    expected[metric][1] += x
                    expected[metric][2] += x * x
            if reopen:
                db.close()
                db = OutcomesDb(path)
        found = {metric: list(sums) for (_, _, _, metric), sums in totals(path).items()}
        assert found == dict(expected)
        db.close()
