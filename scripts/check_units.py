"""Check the systemd units: `systemd-analyze verify` prints nothing, and the exposure stays under a threshold.

The program that ExecStart= names is not installed where this runs, and systemd would say so; what is checked is
a copy of the units that starts a program which every host has.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

UNITS = Path(__file__).resolve().parent.parent / "systemd"
EXPOSURE_LIMIT = 15
"""Tenths of systemd's exposure score; the service has 1.4."""


def run(*command: str) -> tuple[int, str]:
    """Run a command; return its exit code and everything it printed."""
    # Without a terminal and colours, so that no output means content.
    environment = {**os.environ, "SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    return done.returncode, (done.stdout + done.stderr).strip()


def problems(folder: Path) -> list[str]:
    """Return what systemd has to say against the units in `folder`."""
    units = sorted(str(unit) for unit in folder.glob("*.*") if unit.suffix in (".service", ".socket", ".timer"))
    found = []
    code, output = run("systemd-analyze", "verify", *units)
    if code or output:
        found.append(output or f"systemd-analyze verify ended with {code}")
    for unit in units:
        if unit.endswith(".service"):
            code, output = run(
                "systemd-analyze", "security", "--offline=yes", f"--threshold={EXPOSURE_LIMIT}", unit
            )
            if code:
                found.append("\n".join(output.splitlines()[-2:]))
    return found


def main() -> int:
    """Print the problems; exit 1 if there are any."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for unit in UNITS.glob("*.*"):
            if unit.is_file():
                text = re.sub(r"^(ExecStart=)\S+", r"\1/bin/true", unit.read_text(), flags=re.MULTILINE)
                (folder / unit.name).write_text(text)
        found = problems(folder)
    sys.stdout.write("".join(f"{problem}\n" for problem in found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
