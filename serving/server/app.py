"""The OpenAI-compatible API as an application over an engine.

POST /v1/chat/completions, /v1/completions      generation.py
GET  /v1/models                                 what is served
GET  /health                                    200 while requests are taken; 503 before and after, and when the
                                                engine has failed
GET  /metrics                                   metrics.py
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from serving.server import exposition
from serving.server.admission import Door
from serving.server.answers import model_card
from serving.server.calls import Desk
from serving.server.chat_answers import ChatWriter
from serving.server.completion_answers import CompletionWriter
from serving.server.doorway import Access, answer_error, answer_http_error, check_model
from serving.server.embeddings import Embeddings
from serving.server.errors import ApiError
from serving.server.generation import Endpoint, Generation
from serving.server.metrics import Meters
from serving.server.response_answers import ResponseWriter
from serving.server.response_request import read_response
from serving.server.runtime import Embedder, Engine, Served, Stats
from serving.server.schemas import read_chat, read_completion
from serving.server.spans import CallRecord
from serving.server.telemetry import Counts
from serving.server.tokens import Tokens

_SETTLE_SECONDS = 5.0

CHAT = Endpoint("chat", "chatcmpl-", read_chat, lambda answering, _body: ChatWriter(answering))
COMPLETION = Endpoint(
    "text_completion",
    "cmpl-",
    read_completion,
    lambda answering, _body: CompletionWriter(answering),
)
# OpenTelemetry has no name of its own for it: it is a chat
RESPONSE = Endpoint("chat", "resp_", read_response, ResponseWriter)


class Recorder(Protocol):
    """Where calls go that are over."""

    def record(self, call: CallRecord) -> None: ...

    def counts(self) -> Counts: ...


class Application(Starlette):
    """desk knows which calls are open, and its door whether more are let in."""

    desk: Desk


def build_app(
    served: Served,
    engine: Engine,
    recorder: Recorder,
    access: Access | None = None,
    *,
    embedder: Embedder | None = None,
    settle_seconds: float = _SETTLE_SECONDS,
) -> Application:
    """The application. When it shuts down it lets go of every call, stops the engine, and has recorded them all.

    settle_seconds   how long the engine has then to let go of what it was told to cancel
    """
    access = access or Access()
    meters = Meters(
        served.name, served.context_tokens, engine.stats, engine.clocks, recorder.counts
    )
    desk = Desk(engine, served.name, recorder.record, Door(engine.stats), [meters])
    embeddings = Embeddings(desk, access, embedder)
    pages = _Pages(served, embedder, access, desk.door, recorder, meters, engine.stats)

    tokens = Tokens(served, access)

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        await desk.drain(settle_seconds)
        await asyncio.to_thread(engine.stop)

    app = Application(
        routes=[
            *(
                Route(path, Generation(desk, served, access, endpoint), methods=["POST"])
                for path, endpoint in (
                    ("/v1/chat/completions", CHAT),
                    ("/v1/completions", COMPLETION),
                    ("/v1/responses", RESPONSE),
                )
            ),
            Route("/v1/embeddings", embeddings, methods=["POST"]),
            Route("/tokenize", tokens.tokenize, methods=["POST"]),
            Route("/detokenize", tokens.detokenize, methods=["POST"]),
            Route("/v1/models", pages.models),
            Route("/v1/models/{name:path}", pages.model),
            Route("/health", pages.health),
            Route("/metrics", pages.metrics),
        ],
        exception_handlers={ApiError: answer_error, HTTPException: answer_http_error},
        lifespan=lifespan,
    )
    app.desk = desk
    return app


class _Pages:
    """What is read and computes nothing."""

    def __init__(
        self,
        served: Served,
        embedder: Embedder | None,
        access: Access,
        door: Door,
        recorder: Recorder,
        meters: Meters,
        stats: Callable[[], Stats],
    ) -> None:
        self._access, self._name = access, served.name
        self._door, self._recorder, self._meters, self._stats = door, recorder, meters, stats
        since = int(time.time())
        self._cards = {served.name: model_card(served.name, since, served.context_tokens)}
        if embedder is not None:
            self._cards[embedder.name] = model_card(embedder.name, since, embedder.max_tokens)

    async def models(self, request: HttpRequest) -> Response:
        self._access.check(request)
        return JSONResponse({"object": "list", "data": list(self._cards.values())})

    async def model(self, request: HttpRequest) -> Response:
        self._access.check(request)
        name = request.path_params["name"]
        check_model(name, *self._cards)
        return JSONResponse(self._cards[name])

    async def health(self, _request: HttpRequest) -> Response:
        counts = self._recorder.counts()
        spans = {"recorded": counts.recorded, "sent": counts.sent, "lost": counts.lost}
        failure = self._stats().failure
        said = "failed" if failure else "draining" if self._door.is_draining else "ok"
        reason = {"reason": failure} if failure else {}
        return JSONResponse(
            {"status": said, **reason, "model": self._name, "spans": spans},
            200 if said == "ok" else 503,
        )

    async def metrics(self, _request: HttpRequest) -> Response:
        return Response(self._meters.render(), headers={"content-type": exposition.CONTENT_TYPE})


__all__ = ["Access", "Application", "Recorder", "build_app"]
