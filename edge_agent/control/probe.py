"""The probe: a child that tries one version on this device before it may serve.

`python -m edge_agent.control.probe` reads one `ipc.ProbeRequest` from standard input, confines itself, tries
the version, and writes one `ipc.ProbeVerdict`. Without a version it says what it could not take from itself.
"""

import contextlib
import os
import sys

import msgspec

from edge_agent.control.confinement import confine
from edge_agent.documents import ipc


def main() -> None:
    """Answer one request; whatever the model prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):
        # The supervisor was killed before it had asked.
        return
    verdict = answer(msgspec.json.decode(line, type=ipc.ProbeRequest))
    with contextlib.suppress(BrokenPipeError):
        answers.write(msgspec.json.encode(verdict) + b"\n")
        answers.flush()
    # Some runtimes crash in their destructors; the verdict is given, so nothing is left to tidy up.
    os._exit(0)


def answer(request: ipc.ProbeRequest) -> ipc.ProbeVerdict:
    """Confine this process and try the version."""
    sys.dont_write_bytecode = True
    gaps = confine(request.cpu_limit_s)
    if request.version is None:
        return ipc.ProbeVerdict(outcome="passed", gaps=gaps)
    # Imported only now: numpy and the runtimes start threads, which have to be confined, too.
    from edge_agent.control import examination

    return msgspec.structs.replace(examination.verdict(request.version, request.engines), gaps=gaps)


if __name__ == "__main__":
    main()
