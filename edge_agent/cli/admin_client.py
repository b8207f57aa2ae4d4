"""The command line's end of the admin socket: one request, its progress, its answer."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import msgspec

from edge_agent.documents.errors import EdgeAgentError, OperatorError, UnavailableError
from edge_agent.documents.ipc import AdminAnswer, AdminProgress, AdminRequest, FromAdmin

ANSWER_TIMEOUT_S = 30.0
"""How long the agent may stay silent on a command that it answers at once."""

OnProgress = Callable[[AdminProgress], None]


class CommandRefusedError(EdgeAgentError):
    """The agent refused or failed a command; the sentence and the exit code are its own."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code or 1


def call(
    path: Path,
    verb: str,
    arguments: dict[str, Any] | None = None,
    on_progress: OnProgress | None = None,
    timeout_s: float | None = ANSWER_TIMEOUT_S,
) -> Any:
    """Send one command and return its result; None for `timeout_s` waits as long as it takes.

    Raises UnavailableError when no agent answers, OperatorError when this user may not ask it, and
    CommandRefusedError with what the agent says against the command.
    """
    request = AdminRequest(verb, arguments or {})
    with _mapping_errors(path), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout_s)
        connection.connect(str(path))
        connection.sendall(msgspec.json.encode(request) + b"\n")
        with connection.makefile("rb") as lines:
            answer = _answer(lines, on_progress)
    if answer.error:
        raise CommandRefusedError(answer.error, answer.exit_code)
    return answer.result


def _answer(lines: IO[bytes], on_progress: OnProgress | None) -> AdminAnswer:
    decoder = msgspec.json.Decoder(FromAdmin)
    for line in lines:
        message: AdminProgress | AdminAnswer = decoder.decode(line)
        if isinstance(message, AdminAnswer):
            return message
        if on_progress is not None:
            on_progress(message)
    raise UnavailableError("The agent ended before it answered; look into its log, then try again.")


@contextmanager
def _mapping_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise UnavailableError(
            f"No agent is running here (nothing listens on {path}); start it with 'systemctl start edge-agent' "
            "or 'edge-agent run', or name another with --socket."
        ) from error
    except PermissionError as error:
        raise OperatorError(
            f"You may not administer the agent at {path}; use sudo, or become the user that it runs as."
        ) from error
    except TimeoutError as error:
        raise UnavailableError(f"The agent at {path} is there but does not answer; see its log.") from error
    except OSError as error:
        raise UnavailableError(f"Cannot talk to the agent at {path}: {error.strerror or error}.") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UnavailableError(
            f"What listens on {path} does not speak this agent's protocol; use the edge-agent that it runs."
        ) from error
