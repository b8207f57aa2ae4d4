"""Who may change which models are served."""

import hmac
import os
from pathlib import Path

from edge_agent.documents.errors import ForbiddenError
from edge_agent.documents.settings import HttpSettings
from edge_agent.serving.http_messages import Reply, Request

_BEARER = b"bearer "


class Access:
    """On the Unix socket root and the agent's own user; over TCP who bears the token, where that is allowed."""

    def __init__(self, settings: HttpSettings) -> None:
        self._settings = settings

    def check(self, request: Request, reply: Reply) -> str:
        """Return who asks, for the journal; raises ForbiddenError for anybody who may not."""
        uid = reply.peer_uid()
        if uid is not None:
            if uid not in (0, os.geteuid()):
                raise ForbiddenError("Only root and the agent's own user may load and unload models.")
            return f"uid:{uid}"
        if not self._settings.tcp_admin or not self._settings.admin_token_file:
            raise ForbiddenError(
                "Models are not loaded and unloaded over TCP; set http.tcp_admin and http.admin_token_file, "
                "or use the Unix socket."
            )
        given = request.headers.get(b"authorization", b"")
        if given[: len(_BEARER)].lower() != _BEARER or not self._is_token(given[len(_BEARER) :].strip()):
            raise ForbiddenError("This takes the token of http.admin_token_file: 'Authorization: Bearer …'.")
        return "tcp"

    def _is_token(self, given: bytes) -> bool:
        try:
            token = Path(self._settings.admin_token_file or "").read_bytes().strip()
        except OSError as error:
            raise ForbiddenError(f"http.admin_token_file cannot be read: {error.strerror}.") from error
        return bool(token) and hmac.compare_digest(token, given)
