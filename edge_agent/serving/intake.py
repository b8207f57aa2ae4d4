"""How much the bodies of requests take in memory, over all connections of the server."""


class Intake:
    """An account with a limit, so that too many large requests are refused, and do not end the process."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.bytes = 0

    def take(self, size_bytes: int) -> bool:
        """Count a piece of a body; say whether there is room for it, and count nothing if there is none."""
        if self.bytes + size_bytes > self._max_bytes:
            return False
        self.bytes += size_bytes
        return True

    def give_back(self, size_bytes: int) -> None:
        """Count what is not needed any more."""
        self.bytes -= size_bytes
