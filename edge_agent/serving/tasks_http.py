"""The paths of tasks: `/v2/tasks/<id>` and `/v2/tasks/<id>/result`."""

from typing import Final

import msgspec

from edge_agent.documents.errors import NotFoundError
from edge_agent.serving.http_messages import Reply, Request, Response, error_response
from edge_agent.serving.preferences import preferences
from edge_agent.serving.tasks import Task, Tasks

PREFIX: Final = "/v2/tasks/"
_RETRY: Final = (("Retry-After", "1"),)


def without_preferences(request: Request) -> Request:
    """Return the request that becomes a task, as one whose answer is kept.

    Its bytes ask for a task, and must not be known as a question that is answered at once; and whoever fetches
    the result need not take the encoding that its sender takes.
    """
    headers = {name: value for name, value in request.headers.items() if name != b"accept-encoding"}
    return msgspec.structs.replace(request, headers=headers, raw=None)


def accepted(task: Task) -> Response:
    """Return the answer to a request that became a task."""
    headers = (("Location", f"{PREFIX}{task.id}"), ("Preference-Applied", "respond-async"))
    return Response(202, _json(task), headers=headers)


def answer(tasks: Tasks, request: Request, reply: Reply) -> None:
    """Answer a request to one of the paths, at once or, if it prefers to wait, later; raises NotFoundError."""
    number, _, rest = request.path.removeprefix(PREFIX).rstrip("/").partition("/")
    if rest not in ("", "result"):
        raise NotFoundError(f"There is nothing at {request.path}; a task has a status and a result.")
    allowed = ("GET", "HEAD") if rest else ("GET", "HEAD", "DELETE")
    if request.method not in allowed:
        names = ", ".join(allowed)
        reply.send(error_response(405, f"{request.path} answers {names} only.", (("Allow", names),)))
        return
    task = tasks.find(number, reply.peer_uid())
    if request.method == "DELETE":
        tasks.cancel(task)
        reply.send(Response(200, _json(task)))
    elif not rest:
        reply.send(Response(200, _json(task)))
    elif task.response is not None:
        reply.send(task.response)
    else:
        pending = Response(202, _json(task), headers=_RETRY)
        wait_s = preferences(request.headers.get(b"prefer")).wait_s
        if wait_s:
            tasks.wait(task, reply, wait_s, pending)
        else:
            reply.send(pending)


def _json(task: Task) -> tuple[bytes]:
    return (msgspec.json.encode(task.to_builtins()),)
