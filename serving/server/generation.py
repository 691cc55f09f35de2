"""The endpoints that generate; a call's way from the door to its answer.

Endpoint      what tells one of them from the others
Generation    the endpoint as an ASGI application
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse

from collectors import semconv
from serving.engine.request import Constraint, RequestRefused
from serving.server import prompts
from serving.server.answers import Answer, Answering, Writer
from serving.server.call_endpoint import CallEndpoint, cancel_when_gone
from serving.server.calls import Call, Desk, Turn, Wanted
from serving.server.doorway import Access, Reply, check_model, not_too_deep
from serving.server.errors import BadRequest
from serving.server.parameters import GenerationOptions
from serving.server.reading import Reading
from serving.server.runtime import Served
from serving.server.schemas import ChatRequest, CompletionRequest
from serving.server.spans import caller_of
from serving.server.tools import Tools

_EVENT_STREAM = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # proxies of the nginx family would hold events back
]

Asked = ChatRequest | CompletionRequest


@dataclass(frozen=True, slots=True)
class Endpoint:
    """operation is OpenTelemetry's name for it; writer gets the body as well, of which some shapes repeat much."""

    operation: str
    id_prefix: str
    read: Callable[[Mapping[str, Any]], Asked]
    writer: Callable[[Answering, Mapping[str, Any]], Writer]


class Generation(CallEndpoint):
    def __init__(self, desk: Desk, served: Served, access: Access, endpoint: Endpoint) -> None:
        super().__init__(desk, access, endpoint.operation, endpoint.id_prefix)
        self._served, self._endpoint = served, endpoint

    async def answer(self, call: Call, request: HttpRequest, reply: Reply) -> None:
        body = await self.read(request)
        asked = not_too_deep(self._endpoint.read, body)
        call.asked = asked
        check_model(asked.model, self._served.name)
        # long prompts take the tokenizer a second, in which others want their tokens
        wanted = await asyncio.to_thread(not_too_deep, self._prepare, asked)
        await call.submit(wanted, _turn(request.headers, asked.options))
        watch = asyncio.create_task(cancel_when_gone(request.receive, call))
        try:
            await self._send_answer(call, asked, body, request, reply)
        finally:
            watch.cancel()

    def _prepare(self, asked: Asked) -> list[Wanted]:
        """The answers that are wanted. Raises BadRequest."""
        room = self._served.context_tokens
        options = self._constrained(asked)
        return [
            Wanted(place, token_ids, options.sampling_of(answer, room - len(token_ids)))
            for place, token_ids in enumerate(prompts.encode(asked, self._served))
            for answer in range(options.answers)
        ]

    def _constrained(self, asked: Asked) -> GenerationOptions:
        """The options, with what the tools ask of an answer."""
        options = asked.options
        if not isinstance(asked, ChatRequest) or not asked.tools.offered:
            return options
        text = options.sampling.constraint
        constraint = self._constraint_of(asked.tools, text) or text
        return replace(options, sampling=replace(options.sampling, constraint=constraint))

    def _constraint_of(self, tools: Tools, text: Constraint | None) -> Constraint | None:
        try:
            return prompts.tool_use_of(self._served, tools).constraint(tools, text)
        except RequestRefused as refusal:
            raise BadRequest(str(refusal), code="invalid_value", param="tools") from refusal

    def _reading(self, asked: Asked) -> Reading:
        if not isinstance(asked, ChatRequest) or not asked.tools.offered:
            return Reading()
        tool_use = prompts.tool_use_of(self._served, asked.tools)
        return Reading(partial(tool_use.reader, asked.tools, asked.options.sampling.constraint))

    async def _send_answer(
        self,
        call: Call,
        asked: Asked,
        body: Mapping[str, Any],
        request: HttpRequest,
        reply: Reply,
    ) -> None:
        options = asked.options
        answering = Answering(
            call.id,
            self._served.name,
            call.arrived_unix_ns // 10**9,
            self._served.tokenizer.decode,
            options.include_usage,
            options.service_tier,
        )
        writer = self._endpoint.writer(answering, body)
        reading = self._reading(asked)
        if options.stream:
            await _stream(call, reading, writer, reply)
        else:
            whole = await _whole(call, reading, writer)
            response = JSONResponse(whole, headers={"x-request-id": call.id})
            await response(request.scope, request.receive, reply)


def _turn(headers: Mapping[str, str], options: GenerationOptions) -> Turn:
    _, who_pays = caller_of(headers)
    return Turn(str(who_pays.get(semconv.TEAM, "")), options.objective, options.priority)


async def _whole(call: Call, reading: Reading, writer: Writer) -> dict[str, Any]:
    answers: dict[int, Answer] = {}
    async for found in call.news():
        for part in reading.parts(found):
            answers.setdefault(part.index, Answer(part.index)).add(part)
    return writer.whole([answers[index] for index in sorted(answers)], call.used())


async def _stream(call: Call, reading: Reading, writer: Writer, reply: Reply) -> None:
    async with contextlib.aclosing(_events(call, reading, writer)) as events:
        # what fails before the first token still gets its HTTP status
        first = await anext(events)
        headers = [*_EVENT_STREAM, (b"x-request-id", call.id.encode())]
        await reply.begin(headers, writer.failure)
        await reply.more(first)
        async for event in events:
            await reply.more(event)
        await reply.end()


async def _events(call: Call, reading: Reading, writer: Writer) -> AsyncGenerator[bytes]:
    begun = False
    async for found in call.news():
        parts = [part for part in reading.parts(found) if part]
        if parts:
            begin = b"" if begun else writer.begin()
            begun = True
            yield begin + b"".join(writer.part(part) for part in parts)
    yield writer.end(call.used())


__all__ = ["Endpoint", "Generation"]
