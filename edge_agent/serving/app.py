"""The paths of the server, and what each answers."""

import logging
import time
from collections.abc import Callable
from functools import lru_cache, partial
from time import perf_counter_ns
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from edge_agent import __version__
from edge_agent.documents.errors import EdgeAgentError, NotFoundError, RequestError, UnavailableError
from edge_agent.documents.ipc import Configure
from edge_agent.serving import descriptions, shared_memory_http, tasks_http
from edge_agent.serving.access import Access
from edge_agent.serving.codec import Codec
from edge_agent.serving.http_infer import HttpCall, header_length
from edge_agent.serving.http_messages import Reply, Request, Response, error_response, failure
from edge_agent.serving.inference import Inference
from edge_agent.serving.large_json import LargeJson, is_large
from edge_agent.serving.loader import LoadedVersion
from edge_agent.serving.memo import Memo, Question
from edge_agent.serving.oip import Unbound
from edge_agent.serving.outcomes import Outcomes
from edge_agent.serving.pipeline import Pipeline
from edge_agent.serving.preferences import preferences
from edge_agent.serving.repository import Repository
from edge_agent.serving.router import Choice
from edge_agent.serving.shared_memory import Regions
from edge_agent.serving.tasks import Tasks
from edge_agent.telemetry.counters import CONTENT_TYPE, Counters, ServingInfo

log = logging.getLogger(__name__)

_STOPPING: Final = "The server stops before its models were loaded; try again, the next one answers."

_Handler = Callable[[Request], Response]


class App:
    """Answers the requests of the inference sockets; `metrics_only` those of the metrics port."""

    def __init__(
        self,
        pipeline: Pipeline,
        memo: Memo,
        outcomes: Outcomes,
        counters: Counters,
        repository: Repository,
        regions: Regions,
        configure: Configure,
    ) -> None:
        self._pipeline = pipeline
        self._memo = memo
        self._outcomes = outcomes
        self._counters = counters
        self._repository = repository
        self._configure = configure
        self._access = Access(configure.http)
        self._codec = Codec(configure.http.max_body_bytes)
        self._regions = regions
        self._tasks = Tasks(configure.tasks, pipeline.withdraw)
        self._large_json = LargeJson()
        self._start_time_s = time.time()
        self._held: list[tuple[Request, Reply]] = []
        self._is_open = False
        self._is_stopping = False
        self.is_ready = False
        self._monitoring: dict[str, tuple[str, _Handler]] = {
            "/metrics": ("GET", self._metrics),
            "/v2/health/live": ("GET", lambda _: _json({"live": True})),
            "/v2/health/ready": ("GET", self._health_ready),
        }
        self._fixed: dict[str, tuple[str, _Handler]] = self._monitoring | {
            "/v2": ("GET", self._server_metadata),
            "/v2/models/stats": ("GET", self._all_statistics),
            "/v2/repository/index": ("POST", self._repository_index),
        }
        self._of_model: dict[tuple[str, ...], Callable[[str, str | None], Response]] = {
            (): self._model_metadata,
            ("ready",): self._model_ready,
            ("config",): self._model_config,
            ("stats",): self._model_statistics,
        }

    def open(self) -> None:
        """Answer requests to models from now on, and those that came before the first plan.

        Until then they are held: a client of a process that has just been started again must not hear that its
        model does not exist.
        """
        self._is_open = True
        held, self._held = self._held, []
        for request, reply in held:
            if not reply.is_abandoned:
                self(request, reply)

    def stop(self) -> None:
        """Be ready no more; requests that came before the first plan are refused, the next process has it."""
        self.is_ready, self._is_stopping = False, True
        self._repository.stop()
        self._tasks.stop()
        held, self._held = self._held, []
        for _, reply in held:
            if not reply.is_abandoned:
                reply.send(failure(UnavailableError(_STOPPING)))

    def __call__(self, request: Request, reply: Reply) -> None:
        """Answer any request; the errors of its handling become answers, too."""
        try:
            question = None if request.raw is None else self._memo.find(request.raw, self._pipeline.table)
            if question is not None:
                self._recall(question, request, reply)
            elif (fixed := self._fixed.get(request.path)) is not None:
                reply.send(_handle(fixed, request))
            elif request.path.startswith("/v2/models/"):
                self._with_models(request, reply)
            elif request.path.startswith((shared_memory_http.PREFIX, shared_memory_http.CUDA_PREFIX)):
                reply.send(shared_memory_http.answer(self._regions, request, reply))
            elif request.path.startswith(tasks_http.PREFIX):
                tasks_http.answer(self._tasks, request, reply)
            elif request.path.startswith("/v2/repository/models/"):
                self._change_model(request, reply)
            else:
                reply.send(_handle(self._fixed.get(request.path.rstrip("/")), request))
        except Exception as error:
            reply.send(_refusal(request, error))

    def _with_models(self, request: Request, reply: Reply) -> None:
        """Answer a request to a model, once there are any."""
        if not self._is_open:
            self._hold(request, reply)
        elif b"content-encoding" in request.headers:
            self._codec.plain(
                request,
                reply,
                lambda plain: self._dispatch(plain, reply),
                lambda error: reply.send(_refusal(request, error)),
            )
        else:
            self._dispatch_model(request, reply)

    def _dispatch(self, request: Request, reply: Reply) -> None:
        try:
            self._dispatch_model(request, reply)
        except Exception as error:
            reply.send(_refusal(request, error))

    def metrics_only(self, request: Request, reply: Reply) -> None:
        """Answer metrics and health, and nothing else."""
        reply.send(_handle(self._monitoring.get(request.path.rstrip("/")), request))

    def _hold(self, request: Request, reply: Reply) -> None:
        if self._is_stopping:
            raise UnavailableError(_STOPPING)
        if len(self._held) >= self._configure.http.queue_limit:
            raise UnavailableError(f"{len(self._held)} requests wait for the models to be loaded; try again.")
        self._held.append((request, reply))

    def _dispatch_model(self, request: Request, reply: Reply) -> None:
        model, version, rest = _split_model_path(request.path)
        if rest == ("infer",) and request.method == "POST":
            if b"prefer" in request.headers and preferences(request.headers[b"prefer"]).respond_async:
                self._infer_later(model, version, request, reply)
            else:
                self._infer(model, version, request, reply)
        elif rest == ("outcomes",) and version is None and request.method == "POST":
            self._outcomes.take(model, request.body, reply)
        elif rest == ("infer",) or (rest == ("outcomes",) and version is None):
            reply.send(_allowing("POST", request) or _unknown_path(request))
        elif (handler := self._of_model.get(rest)) is not None:
            reply.send(_allowing("GET", request) or handler(model, version))
        else:
            reply.send(_unknown_path(request))

    def _change_model(self, request: Request, reply: Reply) -> None:
        """Have the supervisor load or unload a model, if who asks may have that done."""
        name, _, verb = request.path.removeprefix("/v2/repository/models/").rstrip("/").rpartition("/")
        if verb not in ("load", "unload") or not name or "/" in name:
            reply.send(_unknown_path(request))
        elif (refusal := _allowing("POST", request)) is not None:
            reply.send(refusal)
        else:
            actor = self._access.check(request, reply)
            self._repository.change(unquote(name), verb == "load", request.body, actor, reply)

    def _recall(self, question: Question, request: Request, reply: Reply) -> None:
        """Answer a request whose bytes are known."""
        choice, written, prediction_id = self._pipeline.recall(question, perf_counter_ns())
        if written is None:
            self._infer(question.model, question.version, request, reply, choice)
        else:
            reply.send(written.answer(prediction_id))

    def _infer_later(self, model: str, version: str | None, request: Request, reply: Reply) -> None:
        """Make a task of the request; what is wrong with it is told at once."""
        task = self._tasks.create(reply.peer_uid(), len(request.body))
        try:
            inference = self._infer(model, version, tasks_http.without_preferences(request), task)
        except Exception:
            self._tasks.remove(task)
            raise
        if task.status == "pending":
            task.inference = inference
        reply.send(tasks_http.accepted(task))

    def _infer(
        self, model: str, version: str | None, request: Request, reply: Reply, choice: Choice | None = None
    ) -> Inference | None:
        started_ns = perf_counter_ns()
        length = header_length(request)
        if choice is None and is_large(request, length):
            then = partial(self._infer_read, model, version, request, reply, started_ns)
            self._large_json.read(request, length, reply, then)
            return None
        try:
            call = HttpCall(request, reply, self._memo, self._codec, self._regions, self._large_json)
        except RequestError as error:
            self._pipeline.refuse(model, version, error, started_ns)
            raise
        return self._pipeline.infer(model, version, call, choice)

    def _infer_read(
        self,
        model: str,
        version: str | None,
        request: Request,
        reply: Reply,
        started_ns: int,
        unbound: Unbound | Exception,
    ) -> None:
        """Go on with a request that was read on another thread."""
        if reply.is_abandoned:
            return
        try:
            if isinstance(unbound, Exception):
                if isinstance(unbound, RequestError):
                    self._pipeline.refuse(model, version, unbound, started_ns)
                reply.send(_refusal(request, unbound))
                return
            call = HttpCall(
                request, reply, None, self._codec, self._regions, self._large_json, unbound, started_ns
            )
            self._pipeline.infer(model, version, call)
        except Exception as error:
            reply.send(_refusal(request, error))

    # --- the handlers -----------------------------------------------------------------------------------------

    def _model_ready(self, model: str, version: str | None) -> Response:
        try:
            self._find(model, version)
        except NotFoundError as error:
            if self._pipeline.table.why_left_out(model, version) is None:
                raise
            return error_response(400, str(error))
        return _json({"name": model, "ready": True})

    def _model_metadata(self, model: str, version: str | None) -> Response:
        versions = self._pipeline.table.of_model(model)
        return _json(descriptions.metadata(self._find(model, version), versions, self._configure.unsigned))

    def _model_config(self, model: str, version: str | None) -> Response:
        policy = self._pipeline.table.route(model).policy
        is_cached = policy.cache and self._configure.cache.max_bytes > 0
        return _json(descriptions.config(self._find(model, version), is_cached))

    def _model_statistics(self, model: str, version: str | None) -> Response:
        table = self._pipeline.table
        versions = table.of_model(model) if version is None else (table.named(model, version),)
        return _json(descriptions.statistics(versions, self._counters))

    def _all_statistics(self, request: Request) -> Response:
        return _json(descriptions.statistics(self._pipeline.table.versions, self._counters))

    def _find(self, model: str, version: str | None) -> LoadedVersion:
        table = self._pipeline.table
        return table.of_model(model)[0] if version is None else table.named(model, version)

    def _server_metadata(self, request: Request) -> Response:
        extensions = list(descriptions.EXTENSIONS)
        if self._regions.is_enabled:
            extensions.append("system_shared_memory")
        name = self._configure.http.server_name
        return _json({"name": name, "version": __version__, "extensions": extensions})

    def _health_ready(self, request: Request) -> Response:
        if self.is_ready:
            return _json({"ready": True})
        return error_response(400, "No plan has been applied yet, or the server is stopping.")

    def _repository_index(self, request: Request) -> Response:
        return _json(self._repository.index(self._pipeline.table, request.body))

    def _metrics(self, request: Request) -> Response:
        table = self._pipeline.table
        plans = (loaded.plan for loaded in table.versions)
        info = ServingInfo(
            agent_version=__version__,
            plan_id=table.plan.id,
            start_time_s=self._start_time_s,
            loaded=tuple((plan.model, plan.version, plan.engine, plan.precision) for plan in plans),
            sequences=len(self._pipeline.sequences),
        )
        return Response(200, (self._counters.render(info),), CONTENT_TYPE)


@lru_cache(maxsize=256)
def _split_model_path(path: str) -> tuple[str, str | None, tuple[str, ...]]:
    """Return the model, the version if there is one, and what follows, of a path below /v2/models."""
    model, *rest = (unquote(part) for part in path.removeprefix("/v2/models/").rstrip("/").split("/"))
    if len(rest) >= 2 and rest[0] == "versions":
        return model, rest[1], tuple(rest[2:])
    return model, None, tuple(rest)


def _handle(found: tuple[str, _Handler] | None, request: Request) -> Response:
    if found is None:
        return _unknown_path(request)
    method, handler = found
    return _allowing(method, request) or handler(request)


def _refusal(request: Request, error: Exception) -> Response:
    if isinstance(error, EdgeAgentError):
        return failure(error)
    log.error("A request to %s failed", request.path, exc_info=error)
    return error_response(500, "The server failed on this request; its log says more.")


def _allowing(method: str, request: Request) -> Response | None:
    """Return the refusal of a request with another method; HEAD goes where GET does."""
    given = "GET" if request.method == "HEAD" else request.method
    if given == method:
        return None
    allowed = "GET, HEAD" if method == "GET" else method
    return error_response(405, f"{request.path} answers {allowed} only.", (("Allow", allowed),))


def _unknown_path(request: Request) -> Response:
    return error_response(404, f"There is nothing at {request.path}; the protocol's paths begin with /v2.")


def _json(content: Any) -> Response:
    return Response(200, (msgspec.json.encode(content),))
