"""What a client is told when there is no answer, in the body that OpenAI's clients read.

ApiError
├── BadRequest           the request is wrong, and says where (400, 404, 413)
├── Unauthorized         no key, or a wrong one (401)
├── QueueFull            more is asked than is answered; come back later (429, with Retry-After)
├── Overloaded           nothing is taken now: starting, draining (503, with Retry-After)
└── ServerFailure        our fault (500)
"""

import reprlib
from typing import Any

_brief = reprlib.Repr()
_brief.maxstring = _brief.maxother = 80
_brief.maxlevel = 3


class ApiError(Exception):
    """One answer that is not the asked one. code is what programs branch on, message what people read."""

    status = 500
    type = "server_error"

    def __init__(
        self,
        message: str,
        *,
        code: str,
        param: str | None = None,
        status: int | None = None,
        retry_after_seconds: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.code, self.param = message, code, param
        self.status = status or self.status
        self.retry_after_seconds = retry_after_seconds

    def body(self) -> dict[str, Any]:
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }

    def headers(self) -> dict[str, str]:
        if self.retry_after_seconds is None:
            return {}
        return {"Retry-After": str(self.retry_after_seconds)}


class BadRequest(ApiError):
    status = 400
    type = "invalid_request_error"


class Unauthorized(ApiError):
    status = 401
    type = "authentication_error"


class QueueFull(ApiError):
    status = 429
    type = "rate_limit_error"


class Overloaded(ApiError):
    status = 503
    type = "overloaded_error"


class ServerFailure(ApiError):
    status = 500
    type = "server_error"


def unsupported(param: str, value: object, wanted: str) -> BadRequest:
    """A parameter that would change the answer, and that we cannot honour."""
    return BadRequest(
        f"{param}={_quoted(value)}: not supported here; {wanted}",
        code="unsupported_parameter",
        param=param,
    )


def invalid(param: str, value: object, expected: str) -> BadRequest:
    """A parameter with a value that no request may have."""
    return BadRequest(
        f"{param}={_quoted(value)}: expected {expected}", code="invalid_value", param=param
    )


def _quoted(value: object) -> str:
    """The value as the client wrote it, short enough for a message."""
    text = _brief.repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


__all__ = [
    "ApiError",
    "BadRequest",
    "Overloaded",
    "QueueFull",
    "ServerFailure",
    "Unauthorized",
    "invalid",
    "unsupported",
]
