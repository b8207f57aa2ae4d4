import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent.documents.errors import StateLockedError, StorageError
from edge_agent.store.locks import locked_folder

HOLD = """
import sys, pathlib
from edge_agent.store.locks import locked_folder
with locked_folder(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_held_by_one_process_until_it_ends(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        refused = pytest.raises(StateLockedError, match=f"Another process is working in {tmp_path}")
        with refused, locked_folder(tmp_path):
            pass
        other.kill()
        other.wait()
    with locked_folder(tmp_path):
        assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_missing_is_the_disks_fault(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="check that disk"), locked_folder(tmp_path / "none"):
        pass
