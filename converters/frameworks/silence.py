"""Keeping frameworks silent: what they print, log and warn of while they import and convert goes nowhere."""

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Final

_STREAMS: Final = (1, 2)


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Drop everything that is written, from Python or native code, logged or warned of inside the block."""
    level = logging.root.manager.disable
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        _descriptors_to_null(),
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(level)


@contextlib.contextmanager
def _descriptors_to_null() -> Iterator[None]:
    """Point descriptors 1 and 2 elsewhere: native code writes there, past `sys.stdout`."""
    for stream in (sys.__stdout__, sys.__stderr__):
        # What Python has buffered so far belongs to the descriptor as it was.
        if stream is not None and not stream.closed:
            stream.flush()
    saved = [os.dup(number) for number in _STREAMS]
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        for number in _STREAMS:
            os.dup2(null, number)
        yield
    finally:
        for number, copy in zip(_STREAMS, saved, strict=True):
            os.dup2(copy, number)
            os.close(copy)
        os.close(null)
