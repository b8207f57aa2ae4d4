"""What a case needs of the host. Where that is missing, the case says so: it fails in CI, and never passes."""

import os
import shutil
from typing import NoReturn

import pytest

_SYSTEM_FOLDERS = "/usr/local/sbin:/usr/sbin:/sbin"


def lacking(what: str) -> NoReturn:
    """End the test, since the host lacks something: a failure in CI, elsewhere a skip that is listed."""
    if os.environ.get("CI"):
        pytest.fail(f"CI cannot try this: {what}", pytrace=False)
    pytest.skip(f"NOT TRIED: {what}")


def need_root(what_for: str) -> None:
    """Go on only as root."""
    if os.geteuid() != 0:
        lacking(f"{what_for} needs root; run it as root.")


def need_program(name: str, package: str) -> str:
    """Return where a program is, or end the test naming the Debian package that has it."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_SYSTEM_FOLDERS}")
    if found is None:
        lacking(f"{name} is not installed; as root: apt-get install {package}")
    return found
