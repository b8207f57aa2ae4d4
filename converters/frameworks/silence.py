"""Keeps libraries from printing, warning and logging while they work for the converter.

What they say is for their developers; what a user has to know is raised as an error.
"""

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Drop what is printed meanwhile, by Python and by native code, and all warnings and log records."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            _descriptors_closed(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


@contextlib.contextmanager
def _descriptors_closed() -> Iterator[None]:
    """Point the descriptors 1 and 2, which native code writes to, at /dev/null."""
    for stream in (sys.stdout, sys.stderr):
        # A program may run without them, or with one that is closed.
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.flush()
    with contextlib.ExitStack() as stack:
        null = os.open(os.devnull, os.O_WRONLY)
        stack.callback(os.close, null)
        for number in (1, 2):
            with contextlib.suppress(OSError):
                kept = os.dup(number)
                stack.callback(os.close, kept)
                stack.callback(os.dup2, kept, number)
                os.dup2(null, number)
        yield
