"""`edge-convert` as a user runs it: a process of its own, with a temporary folder that can be looked into."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from support.sources import environment

LIMIT_S = 110.0


@dataclass(frozen=True)
class Ran:
    """How a command ended and what it wrote."""

    code: int
    out: str
    err: str


def run(*words: object, cwd: Path, first_on_path: Path | None = None, **variables: str) -> Ran:
    """Run the command in a folder; it must leave nothing in its temporary folder, `tmp` beside that folder."""
    temporary = Path(variables.setdefault("TMPDIR", str(cwd.parent / "tmp")))
    temporary.mkdir(exist_ok=True)
    env = environment(**variables)
    if first_on_path is not None:
        env["PYTHONPATH"] = f"{first_on_path}:{env['PYTHONPATH']}"
    done = subprocess.run(
        [sys.executable, "-m", "converters.script", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=env,
        timeout=LIMIT_S,
    )
    assert not list(temporary.iterdir()), "temporary files were left behind"
    return Ran(done.returncode, done.stdout, done.stderr)


def refused(*words: object, cwd: Path, first_on_path: Path | None = None, **variables: str) -> str:
    """Run a build that must fail in one sentence and leave nothing; return the sentence."""
    before = sorted(cwd.rglob("*"))
    ran = run("build", *words, cwd=cwd, first_on_path=first_on_path, **variables)
    assert (ran.code, ran.out) == (2, ""), ran
    assert ran.err.startswith("edge-convert: "), ran.err
    assert ran.err.endswith(".\n"), ran.err
    assert len(ran.err.splitlines()) == 1, ran.err
    assert "Traceback" not in ran.err
    assert sorted(cwd.rglob("*")) == before, "files were left behind"
    return ran.err
