"""The paths of the server, and what each answers."""

import logging
from collections.abc import Callable
from functools import lru_cache
from time import perf_counter_ns
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from edge_agent import __version__
from edge_agent.documents.errors import EdgeAgentError, RequestError, UnavailableError
from edge_agent.documents.tensors import TensorSpec
from edge_agent.serving.http_infer import HttpCall
from edge_agent.serving.http_messages import Reply, Request, Response, error_response, failure
from edge_agent.serving.loader import LoadedVersion
from edge_agent.serving.memo import Memo, Question
from edge_agent.serving.outcomes import Outcomes
from edge_agent.serving.pipeline import Pipeline
from edge_agent.serving.router import Choice
from edge_agent.telemetry.counters import CONTENT_TYPE, Counters, ServingInfo

log = logging.getLogger(__name__)
_EXTENSIONS: Final = ("binary_tensor_data",)
_PLATFORMS: Final = {"onnx": "onnxruntime_onnx", "tflite": "tflite_tflite"}

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
        start_time_s: float,
        unsigned: bool,
        hold_limit: int,
    ) -> None:
        self._pipeline = pipeline
        self._memo = memo
        self._outcomes = outcomes
        self._counters = counters
        self._start_time_s = start_time_s
        self._unsigned = unsigned
        self._hold_limit = hold_limit
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
            "/v2/repository/index": ("POST", self._repository_index),
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
            elif request.path.startswith("/v2/models/"):
                if self._is_open:
                    self._dispatch_model(request, reply)
                else:
                    self._hold(request, reply)
            else:
                reply.send(_handle_fixed(self._fixed, request))
        except EdgeAgentError as error:
            reply.send(failure(error))
        except Exception:
            log.exception("A request to %s failed", request.path)
            reply.send(error_response(500, "The server failed on this request; its log says more."))

    def metrics_only(self, request: Request, reply: Reply) -> None:
        """Answer metrics and health, and nothing else."""
        reply.send(_handle_fixed(self._monitoring, request))

    def _hold(self, request: Request, reply: Reply) -> None:
        if self._is_stopping:
            raise UnavailableError(_STOPPING)
        if len(self._held) >= self._hold_limit:
            raise UnavailableError(f"{len(self._held)} requests wait for the models to be loaded; try again.")
        self._held.append((request, reply))

    def _dispatch_model(self, request: Request, reply: Reply) -> None:
        model, version, rest = _split_model_path(request.path)
        if rest == ("infer",):
            refusal = _allowing("POST", request) or _refuse_encoding(request)
            if refusal is None:
                self._infer(model, version, request, reply)
            else:
                reply.send(refusal)
        elif rest == ("outcomes",) and version is None:
            refusal = _allowing("POST", request) or _refuse_encoding(request)
            if refusal is None:
                self._outcomes.take(model, request.body, reply)
            else:
                reply.send(refusal)
        elif rest == ("ready",):
            reply.send(_allowing("GET", request) or self._model_ready(model, version))
        elif not rest:
            reply.send(_allowing("GET", request) or self._model_metadata(model, version))
        else:
            reply.send(_unknown_path(request))

    def _recall(self, question: Question, request: Request, reply: Reply) -> None:
        """Answer a request whose bytes are known."""
        choice, written, prediction_id = self._pipeline.recall(question, perf_counter_ns())
        if written is None:
            self._infer(question.model, question.version, request, reply, choice)
        else:
            body = (written.before, prediction_id.encode(), written.after)
            reply.send(Response(200, body, head=written.head))

    def _infer(
        self, model: str, version: str | None, request: Request, reply: Reply, choice: Choice | None = None
    ) -> None:
        started_ns = perf_counter_ns()
        try:
            call = HttpCall(request, reply, self._memo)
        except RequestError as error:
            self._pipeline.refuse(model, version, error, started_ns)
            raise
        self._pipeline.infer(model, version, call, choice)

    # --- the handlers -----------------------------------------------------------------------------------------

    def _model_ready(self, model: str, version: str | None) -> Response:
        self._find(model, version)
        return _json({"name": model, "ready": True})

    def _model_metadata(self, model: str, version: str | None) -> Response:
        loaded = self._find(model, version)
        plan = loaded.plan
        return _json(
            {
                "name": model,
                "versions": [other.plan.version for other in self._pipeline.table.of_model(model)],
                "platform": _PLATFORMS.get(plan.engine, plan.engine),
                "inputs": [_tensor(spec) for spec in loaded.signature.inputs.values()],
                "outputs": [_tensor(spec) for spec in loaded.signature.outputs.values()],
                "parameters": {
                    "version": plan.version,
                    "precision": plan.precision,
                    "sha256": plan.sha256,
                    "labels": plan.labels,
                    "unsigned": self._unsigned,
                },
            }
        )

    def _find(self, model: str, version: str | None) -> LoadedVersion:
        table = self._pipeline.table
        return table.of_model(model)[0] if version is None else table.named(model, version)

    def _server_metadata(self, request: Request) -> Response:
        return _json({"name": "edge-agent", "version": __version__, "extensions": _EXTENSIONS})

    def _health_ready(self, request: Request) -> Response:
        if self.is_ready:
            return _json({"ready": True})
        return error_response(400, "No plan has been applied yet, or the server is stopping.")

    def _repository_index(self, request: Request) -> Response:
        versions = self._pipeline.table.versions
        return _json(
            [
                {
                    "name": loaded.plan.model,
                    "version": loaded.plan.version,
                    "state": loaded.state[0],
                    "reason": loaded.state[1],
                }
                for loaded in versions
            ]
        )

    def _metrics(self, request: Request) -> Response:
        table = self._pipeline.table
        plans = (loaded.plan for loaded in table.versions)
        info = ServingInfo(
            agent_version=__version__,
            plan_id=table.plan.id,
            start_time_s=self._start_time_s,
            loaded=tuple((plan.model, plan.version, plan.engine, plan.precision) for plan in plans),
        )
        return Response(200, (self._counters.render(info),), CONTENT_TYPE)


@lru_cache(maxsize=256)
def _split_model_path(path: str) -> tuple[str, str | None, tuple[str, ...]]:
    """Return the model, the version if there is one, and what follows, of a path below /v2/models."""
    model, *rest = (unquote(part) for part in path.removeprefix("/v2/models/").rstrip("/").split("/"))
    if len(rest) >= 2 and rest[0] == "versions":
        return model, rest[1], tuple(rest[2:])
    return model, None, tuple(rest)


def _handle_fixed(handlers: dict[str, tuple[str, _Handler]], request: Request) -> Response:
    method, handler = handlers.get(request.path.rstrip("/"), (None, _unknown_path))
    return (method and _allowing(method, request)) or handler(request)


def _refuse_encoding(request: Request) -> Response | None:
    encoding = request.headers.get(b"content-encoding")
    if encoding is None:
        return None
    name = encoding.decode("latin-1")
    return error_response(415, f"Content-Encoding '{name}' is not supported; send the body as it is.")


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


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": spec.shape}
