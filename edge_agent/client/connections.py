"""What both clients need to know of connections that end."""

from typing import Final

from edge_agent.client.wire import Address

TIMEOUT_S: Final = 60.0
CHUNK_BYTES: Final = 256 * 1024


class ClosedError(Exception):
    """The server closed the connection before it answered; it cannot have read all if `was_sent` is False."""

    def __init__(self, was_sent: bool) -> None:
        super().__init__()
        self.was_sent = was_sent


def may_repeat(address: Address, error: ClosedError) -> bool:
    """Say whether a request may be sent again after a connection that was kept alive has turned out closed.

    On a Unix socket a send to a closed peer fails, so that a request which was sent was taken, and may be what
    has crashed the server. On TCP there is no telling, and a connection that was closed for idling is likelier.
    """
    return not error.was_sent or address.path is None
