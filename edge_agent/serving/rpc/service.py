"""`inference.GRPCInferenceService`: the calls, and what each does."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, Final, NoReturn

import grpc
import msgspec
from google.protobuf.message import DecodeError, Message

from edge_agent.documents.errors import EdgeAgentError, RequestError, UnavailableError
from edge_agent.serving.http_messages import Application, Request, Response
from edge_agent.serving.pipeline import Pipeline
from edge_agent.serving.rpc import questions
from edge_agent.serving.rpc.infer import GrpcCall
from edge_agent.serving.rpc.messages import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse
from edge_agent.serving.rpc.statuses import RefusedError, code_of, refusal
from edge_agent.serving.shared_memory import RegionAccess, Regions

NAME: Final = "inference.GRPCInferenceService"
STREAM_DEPTH: Final = 64
"""Requests of one stream that are begun and not answered; the next is read when one of them is."""

_STOPPING: Final = "The server is stopping; try again, the next one answers."
_FAILED: Final = "The server failed on this request; its log says more."
_UNIT: Final = "edge-unit"
_AUTHORIZATION: Final = "authorization"

log = logging.getLogger(__name__)

Answered = asyncio.Future[ModelInferResponse | EdgeAgentError]


class _Reply:
    """Takes what the application answers; see `http_messages.Reply`.

    gRPC does not tell who asks, not even on a Unix socket, which is why that counts as TCP here.
    """

    def __init__(self) -> None:
        self.response: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self.is_abandoned = False

    def peer_uid(self) -> int | None:
        return None

    def reserve(self, size_bytes: int) -> bool:
        return True

    def send(self, response: Response) -> None:
        if not self.response.done():
            self.response.set_result(response)


class Service:
    """Answers calls: inferences with the pipeline, all else by what the application says on its paths."""

    def __init__(self, pipeline: Pipeline, application: Application, regions: Regions) -> None:
        self._pipeline = pipeline
        self._regions = regions
        self._application = application
        self._opened = asyncio.Event()
        self._is_stopping = False
        self._readers: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Begin inferences from now on, and those that came before the first plan."""
        self._opened.set()

    def stop(self) -> None:
        """Begin no more; those that came before the first plan are refused, streams end after their answers."""
        self._is_stopping = True
        self._opened.set()
        for reader in self._readers:
            reader.cancel()

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return what a server of `grpc.aio` calls; messages are read and written here, not by it."""
        unary = grpc.unary_unary_rpc_method_handler
        methods = {"ModelInfer": unary(partial(_answer, self._infer))}
        methods["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(self._stream)
        for name, asked in questions.ASKED.items():
            methods[name] = unary(partial(_answer, partial(self._ask, asked)))
        for name, message in questions.UNSERVED.items():
            methods[name] = unary(partial(_answer, partial(_refuse, message)))
        return grpc.method_handlers_generic_handler(NAME, methods)

    async def _infer(self, content: bytes, context: grpc.aio.ServicerContext) -> Message:
        await self._opened.wait()
        answer = await self._begin(_request(content), _metadata(context, _UNIT))
        if isinstance(answer, EdgeAgentError):
            raise answer
        return answer

    def _begin(self, request: ModelInferRequest, unit: bytes | None) -> Answered:
        """Begin an inference; never raises what is the request's fault or passes by itself."""
        answered: Answered = asyncio.get_running_loop().create_future()
        try:
            if self._is_stopping:
                raise UnavailableError(_STOPPING)
            call = GrpcCall(request, unit, answered, self._memory())
            self._pipeline.infer(request.model_name, request.model_version or None, call)
        except EdgeAgentError as error:
            answered.set_result(error)
        return answered

    def _memory(self) -> RegionAccess | None:
        return RegionAccess(self._regions, lambda: None, lambda _: True) if self._regions.is_enabled else None

    async def _stream(self, contents: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
        """Answer the requests of a stream in their order; several are on their way at a time."""
        begun: asyncio.Queue[tuple[str, Answered] | None] = asyncio.Queue()
        room = asyncio.Semaphore(STREAM_DEPTH)
        unit = _metadata(context, _UNIT)
        reader = asyncio.create_task(self._read(contents, unit, begun, room), name="gRPC stream")
        self._readers.add(reader)
        try:
            while (one := await begun.get()) is not None:
                request_id, answered = one
                await context.write(_streamed(request_id, await answered).SerializeToString())
                room.release()
        finally:
            self._readers.discard(reader)
            reader.cancel()
            while not begun.empty():
                if (one := begun.get_nowait()) is not None:
                    one[1].cancel()
        if self._is_stopping:
            await _abort(context, refusal(UnavailableError(_STOPPING)))

    async def _read(
        self,
        contents: AsyncIterator[bytes],
        unit: bytes | None,
        begun: asyncio.Queue[tuple[str, Answered] | None],
        room: asyncio.Semaphore,
    ) -> None:
        try:
            await self._opened.wait()
            await room.acquire()
            async for content in contents:
                begun.put_nowait(self._begin_one(content, unit))
                await room.acquire()
        finally:
            begun.put_nowait(None)

    def _begin_one(self, content: bytes, unit: bytes | None) -> tuple[str, Answered]:
        try:
            request = _request(content)
        except RequestError as error:
            answered: Answered = asyncio.get_running_loop().create_future()
            answered.set_result(error)
            return "", answered
        return request.id, self._begin(request, unit)

    async def _ask(self, asked: questions.Asked, content: bytes, context: grpc.aio.ServicerContext) -> Message:
        try:
            question = questions.read(asked, content)
        except DecodeError as error:
            raise RequestError(f"The request is no {asked.request.__name__}.") from error  # type: ignore[union-attr]
        reply = _Reply()
        self._application(_as_http(question, _metadata(context, _AUTHORIZATION)), reply)
        try:
            response = await reply.response
        finally:
            reply.is_abandoned = True
        body = b"".join(response.body)
        document = msgspec.json.decode(body) if body else {}
        if response.status < 300:
            return questions.respond(asked, document)
        if asked.unless is not None:
            return asked.unless
        metadata = tuple((name.lower(), value) for name, value in response.headers if name == "Retry-After")
        raise RefusedError(code_of(response.status), document["error"], metadata)


async def _answer(
    work: Callable[[bytes, grpc.aio.ServicerContext], Awaitable[Message]],
    content: bytes,
    context: grpc.aio.ServicerContext,
) -> bytes:
    """Return the response of a call, or end it with a status and one sentence."""
    try:
        serialized: bytes = (await work(content, context)).SerializeToString()
    except EdgeAgentError as error:
        end = refusal(error)
    except RefusedError as error:
        end = error
    except Exception:
        log.exception("A gRPC call failed")
        end = RefusedError(grpc.StatusCode.INTERNAL, _FAILED)
    else:
        return serialized
    return await _abort(context, end)


async def _abort(context: grpc.aio.ServicerContext, end: RefusedError) -> NoReturn:
    await context.abort(end.code, str(end), end.metadata)
    raise end


async def _refuse(message: str, content: bytes, context: grpc.aio.ServicerContext) -> Message:
    raise RefusedError(grpc.StatusCode.UNIMPLEMENTED, message)


def _request(content: bytes) -> ModelInferRequest:
    try:
        request: ModelInferRequest = ModelInferRequest.FromString(content)
    except DecodeError as error:
        raise RequestError("The request is no ModelInferRequest.") from error
    return request


def _streamed(request_id: str, answer: ModelInferResponse | EdgeAgentError) -> ModelStreamInferResponse:
    if isinstance(answer, EdgeAgentError):
        # The id, so that a client with several on their way knows which of them it was.
        return ModelStreamInferResponse(error_message=str(answer), infer_response={"id": request_id})
    return ModelStreamInferResponse(infer_response=answer)


def _metadata(context: grpc.aio.ServicerContext, wanted: str) -> bytes | None:
    value: Any
    for name, value in context.invocation_metadata() or ():
        if name == wanted:
            return value.encode() if isinstance(value, str) else bytes(value)
    return None


def _as_http(question: questions.Question, authorization: bytes | None) -> Request:
    headers = {} if authorization is None else {b"authorization": authorization}
    body = b"" if question.content is None else msgspec.json.encode(question.content)
    return Request(question.method, question.path, headers, body, True, False)
