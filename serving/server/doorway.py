"""What every endpoint does with an HTTP request before and after its own work.

Access            who may ask, and how much at once
Reply             an ASGI send that knows whether the answer has begun
not_too_deep      reads a body that may be nested
read_body         the body, up to a limit
error_response    an ApiError as an answer
"""

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Send

from serving.server.errors import ApiError, BadRequest, Unauthorized

_MAX_BODY_BYTES = 4 * 1024 * 1024
_DISCARDED_BYTES = 16 * 1024 * 1024  # read past the limit, so that a client hears why and no reset


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


class Reply:
    """An ASGI send that knows whether the answer has begun: a status cannot be taken back."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._last_words: Callable[[ApiError], bytes] | None = None
        self.has_begun = False

    async def __call__(self, message: Message) -> None:
        self.has_begun = True
        await self._send(message)

    async def begin(
        self, headers: list[tuple[bytes, bytes]], last_words: Callable[[ApiError], bytes]
    ) -> None:
        """Begin a stream; last_words writes why it ends, if it has to end before its end."""
        self._last_words = last_words
        await self({"type": "http.response.start", "status": 200, "headers": headers})

    async def more(self, body: bytes) -> None:
        await self({"type": "http.response.body", "body": body, "more_body": True})

    async def end(self, body: bytes = b"") -> None:
        await self({"type": "http.response.body", "body": body, "more_body": False})

    async def break_off(self, error: ApiError) -> None:
        if self._last_words is not None:
            await self.end(self._last_words(error))


async def read_body(request: HttpRequest, limit_bytes: int) -> bytes:
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


def not_too_deep(read: Callable[..., Any], asked: Any) -> Any:
    """What is read, or BadRequest where it is lists in lists in lists until Python has enough."""
    try:
        return read(asked)
    except RecursionError as error:
        raise BadRequest(
            "the body is nested too deeply; send a flatter one", code="invalid_value"
        ) from error


def check_model(name: str, *served: str) -> None:
    """Raises BadRequest that lists what is served."""
    if name not in served:
        raise BadRequest(
            f"the model '{name}' is not served here; this server has {', '.join(map(repr, served))}",
            code="model_not_found",
            param="model",
            status=404,
        )


def error_response(error: ApiError) -> Response:
    return JSONResponse(error.body(), error.status, headers=error.headers())


async def answer_error(_request: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_response(error)


async def answer_http_error(request: HttpRequest, error: Exception) -> Response:
    """No such path, or no such method on it, in OpenAI's shape."""
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}"
    return error_response(BadRequest(message, code="unknown_url", status=error.status_code))


__all__ = [
    "Access",
    "Reply",
    "answer_error",
    "answer_http_error",
    "check_model",
    "error_response",
    "not_too_deep",
    "read_body",
]
