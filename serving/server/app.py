"""The OpenAI-compatible API: chat completions, completions, models, health.

build_app     the ASGI application over an engine
Generation    one of the two endpoints that compute; a call's way from the door to its answer
"""

import asyncio
import contextlib
import hmac
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from serving.engine.request import SamplingParams
from serving.server import answers
from serving.server.answers import CHAT, COMPLETION, DONE, Answering, Choice, Endpoint
from serving.server.calls import Call, Desk
from serving.server.errors import ApiError, BadRequest, ServerFailure, Unauthorized
from serving.server.parameters import Options
from serving.server.runtime import Engine, Served
from serving.server.schemas import (
    ChatRequest,
    CompletionRequest,
    parse_object,
    read_chat,
    read_completion,
)
from serving.server.spans import CallRecord
from serving.server.telemetry import Counts

_MAX_BODY_BYTES = 4 * 1024 * 1024
_DISCARDED_BYTES = 16 * 1024 * 1024  # read past the limit, so that a client hears why and no reset
_SETTLE_SECONDS = 5.0
_EVENT_STREAM = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # proxies of the nginx family would hold events back
]

_log = logging.getLogger(__name__)

Read = Callable[[Mapping[str, Any]], ChatRequest | CompletionRequest]


class Recorder(Protocol):
    """Where calls go that are over."""

    def record(self, call: CallRecord) -> None: ...

    def counts(self) -> Counts: ...


@dataclass(frozen=True, slots=True)
class Access:
    """api_key empty: everybody who reaches the port may ask."""

    api_key: str = ""
    max_body_bytes: int = _MAX_BODY_BYTES

    def check(self, connection: HTTPConnection) -> None:
        """Raises Unauthorized."""
        said = connection.headers.get("authorization", "")
        if self.api_key and not hmac.compare_digest(
            said.encode(), f"Bearer {self.api_key}".encode()
        ):
            raise Unauthorized(
                "the API key is missing or wrong; send it as: Authorization: Bearer KEY",
                code="invalid_api_key",
            )


def build_app(
    served: Served,
    engine: Engine,
    recorder: Recorder,
    access: Access | None = None,
    *,
    settle_seconds: float = _SETTLE_SECONDS,
) -> Starlette:
    """The application. When it shuts down it lets go of every call, stops the engine, and has recorded them all.

    settle_seconds   how long the engine has then to let go of what it was told to cancel
    """
    access = access or Access()
    desk = Desk(engine, served.name, recorder.record)
    models = _Models(served, access)

    async def health(_request: HttpRequest) -> Response:
        counts = recorder.counts()
        spans = {"recorded": counts.recorded, "sent": counts.sent, "lost": counts.lost}
        return JSONResponse({"status": "ok", "model": served.name, "spans": spans})

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        await desk.drain(settle_seconds)
        await asyncio.to_thread(engine.stop)

    return Starlette(
        routes=[
            Route(
                "/v1/chat/completions",
                Generation(desk, served, access, CHAT, read_chat),
                methods=["POST"],
            ),
            Route(
                "/v1/completions",
                Generation(desk, served, access, COMPLETION, read_completion),
                methods=["POST"],
            ),
            Route("/v1/models", models.all),
            Route("/v1/models/{name:path}", models.one),
            Route("/health", health),
        ],
        exception_handlers={ApiError: _answer_error, HTTPException: _answer_http_error},
        lifespan=lifespan,
    )


class _Models:
    def __init__(self, served: Served, access: Access) -> None:
        self._access, self._name = access, served.name
        self._card = answers.model_card(served.name, int(time.time()), served.context_tokens)

    async def all(self, request: HttpRequest) -> Response:
        self._access.check(request)
        return JSONResponse({"object": "list", "data": [self._card]})

    async def one(self, request: HttpRequest) -> Response:
        self._access.check(request)
        _check_model(request.path_params["name"], self._name)
        return JSONResponse(self._card)


class Generation:
    """An endpoint that computes. Every request to it is one call, and leaves one record, whatever becomes of it."""

    def __init__(
        self, desk: Desk, served: Served, access: Access, endpoint: Endpoint, read: Read
    ) -> None:
        self._desk, self._served, self._access = desk, served, access
        self._endpoint, self._read = endpoint, read

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = HttpRequest(scope, receive)
        reply = _Reply(send)
        call = self._desk.open(self._endpoint, request.headers)
        try:
            await self._answer(call, request, reply)
        except ClientDisconnect:
            return
        except ApiError as error:
            await self._fail(call, error, scope, receive, reply)
        except Exception:
            _log.exception("%s failed", call.id)
            failure = ServerFailure("an error of ours; the log has it", code="internal_error")
            await self._fail(call, failure, scope, receive, reply)
        finally:
            call.close()

    async def _fail(
        self, call: Call, error: ApiError, scope: Scope, receive: Receive, reply: "_Reply"
    ) -> None:
        call.fail(error)
        if reply.has_begun:
            await reply.end(answers.event(error.body()))
        else:
            await _error_response(error)(scope, receive, reply)

    async def _answer(self, call: Call, request: HttpRequest, reply: "_Reply") -> None:
        self._access.check(request)
        asked = self._read(parse_object(await _read_body(request, self._access.max_body_bytes)))
        call.asked = asked
        _check_model(asked.model, self._served.name)
        # long prompts take the tokenizer a second, in which others want their tokens
        prompts = await asyncio.to_thread(self._encode, asked)
        call.submit(prompts, [self._sampling(asked.options, len(each)) for each in prompts])
        watch = asyncio.create_task(_cancel_when_gone(request.receive, call))
        try:
            await self._send_answer(call, asked.options, request, reply)
        finally:
            watch.cancel()

    def _encode(self, asked: ChatRequest | CompletionRequest) -> list[Sequence[int]]:
        """Token ids of each prompt. Raises BadRequest."""
        if isinstance(asked, ChatRequest):
            prompts, param = [self._encode_chat(asked)], "messages"
        else:
            prompts, param = [self._encode_prompt(prompt) for prompt in asked.prompts], "prompt"
        for token_ids in prompts:
            _check_length(len(token_ids), self._served.context_tokens, param)
        return prompts

    def _encode_chat(self, asked: ChatRequest) -> Sequence[int]:
        messages = [{"role": each.role, "content": each.content} for each in asked.messages]
        try:
            return self._served.tokenizer.encode_chat(messages)
        except ValueError as error:
            raise BadRequest(str(error), code="invalid_messages", param="messages") from error

    def _encode_prompt(self, prompt: str | tuple[int, ...]) -> Sequence[int]:
        if isinstance(prompt, str):
            return self._served.tokenizer.encode(prompt)
        above = self._served.vocabulary_tokens
        for token_id in prompt:
            if not 0 <= token_id < above:
                raise BadRequest(
                    f"prompt holds the token id {token_id}: expected 0 to {above - 1}",
                    code="invalid_value",
                    param="prompt",
                )
        return prompt

    def _sampling(self, options: Options, prompt_tokens: int) -> SamplingParams:
        room = self._served.context_tokens - prompt_tokens
        return SamplingParams(
            max_tokens=min(options.max_tokens or room, room),
            temperature=options.temperature,
            top_p=options.top_p,
            top_k=options.top_k,
            seed=options.seed,
            stop=options.stop,
            ignore_eos=options.ignore_eos,
        )

    async def _send_answer(
        self, call: Call, options: Options, request: HttpRequest, reply: "_Reply"
    ) -> None:
        created = call.arrived_unix_ns // 10**9
        answering = Answering(self._endpoint, call.id, self._served.name, created)
        if options.stream:
            await _stream(call, answering, options, reply)
        else:
            body = await _whole(call, answering)
            response = JSONResponse(body, headers={"x-request-id": call.id})
            await response(request.scope, request.receive, reply)


async def _whole(call: Call, answering: Answering) -> dict[str, Any]:
    choices: dict[int, Choice] = {}
    async for index, progress in call.news():
        before = choices.get(index) or Choice(index, "", None)
        reason = progress.finished.reason if progress.finished else None
        choices[index] = replace(before, text=before.text + progress.text, reason=reason)
    in_order = [choices[index] for index in sorted(choices)]
    return answers.whole(answering, in_order, answers.usage(*call.usage_tokens()))


async def _stream(call: Call, answering: Answering, options: Options, reply: "_Reply") -> None:
    async with contextlib.aclosing(_events(call, answering, options)) as events:
        # what fails before the first token still gets its HTTP status
        first = await anext(events)
        await reply.begin([*_EVENT_STREAM, (b"x-request-id", call.id.encode())])
        await reply.more(first)
        async for event in events:
            await reply.more(event)
        await reply.end()


async def _events(call: Call, answering: Answering, options: Options) -> AsyncGenerator[bytes]:
    begun: set[int] = set()
    async for index, progress in call.news():
        if progress.text or progress.finished:
            reason = progress.finished.reason if progress.finished else None
            choice = Choice(index, progress.text, reason, begins=index not in begun)
            begun.add(index)
            yield answers.event(
                answers.chunk(answering, choice, include_usage=options.include_usage)
            )
    if options.include_usage:
        used = answers.usage(*call.usage_tokens())
        yield answers.event(answers.usage_chunk(answering, used))
    yield DONE


class _Reply:
    """An ASGI send that knows whether the answer has begun: a status cannot be taken back."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.has_begun = False

    async def __call__(self, message: Message) -> None:
        self.has_begun = True
        await self._send(message)

    async def begin(self, headers: list[tuple[bytes, bytes]]) -> None:
        await self({"type": "http.response.start", "status": 200, "headers": headers})

    async def more(self, body: bytes) -> None:
        await self({"type": "http.response.body", "body": body, "more_body": True})

    async def end(self, body: bytes = b"") -> None:
        await self({"type": "http.response.body", "body": body, "more_body": False})


async def _cancel_when_gone(receive: Receive, call: Call) -> None:
    """Wait for the client to close the connection, which is all that can still come from it."""
    while (await receive())["type"] != "http.disconnect":
        pass
    call.cancel()


async def _read_body(request: HttpRequest, limit_bytes: int) -> bytes:
    body = bytearray()
    size_bytes = 0
    async for part in request.stream():
        size_bytes += len(part)
        if size_bytes <= limit_bytes:
            body += part
        elif size_bytes > limit_bytes + _DISCARDED_BYTES:
            break
    if size_bytes > limit_bytes:
        raise BadRequest(
            f"the body is larger than {limit_bytes} bytes; send less text",
            code="request_too_large",
            status=413,
        )
    return bytes(body)


def _check_model(name: str, served_name: str) -> None:
    if name != served_name:
        raise BadRequest(
            f"the model '{name}' is not served here; this server has '{served_name}'",
            code="model_not_found",
            param="model",
            status=404,
        )


def _check_length(prompt_tokens: int, context_tokens: int, param: str) -> None:
    if not prompt_tokens:
        raise BadRequest("the prompt is empty", code="invalid_value", param=param)
    if prompt_tokens >= context_tokens:
        raise BadRequest(
            f"this model's maximum context length is {context_tokens} tokens and the prompt has {prompt_tokens}, "
            "which leaves no room for an answer; shorten the prompt",
            code="context_length_exceeded",
            param=param,
        )


def _error_response(error: ApiError) -> Response:
    return JSONResponse(error.body(), error.status, headers=error.headers())


async def _answer_error(_request: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _error_response(error)


async def _answer_http_error(request: HttpRequest, error: Exception) -> Response:
    """No such path, or no such method on it, in OpenAI's shape."""
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}"
    return _error_response(BadRequest(message, code="unknown_url", status=error.status_code))


__all__ = ["Access", "Generation", "Recorder", "build_app"]
