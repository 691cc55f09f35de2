"""What endpoints have in common that compute something which somebody pays for.

CallEndpoint        an ASGI application; every request to it is one call
cancel_when_gone    watches whether the client is still there
"""

import logging
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.types import Receive, Scope, Send

from serving.server.calls import Call, Desk
from serving.server.doorway import Access, Reply, error_response, read_body
from serving.server.errors import ApiError, ServerFailure
from serving.server.schemas import parse_object

_log = logging.getLogger(__name__)


class CallEndpoint:
    """Every request to it is one call, and leaves one record, whatever becomes of it.

    operation is OpenTelemetry's name for what it does.
    """

    def __init__(self, desk: Desk, access: Access, operation: str, id_prefix: str) -> None:
        self._desk, self._access = desk, access
        self._operation, self._id_prefix = operation, id_prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = HttpRequest(scope, receive)
        reply = Reply(send)
        call = self._desk.open(self._operation, self._id_prefix, request.headers)
        try:
            await self.answer(call, request, reply)
        except ClientDisconnect:
            return
        except ApiError as error:
            await self._fail(call, error, request, reply)
        except Exception:
            _log.exception("%s failed", call.id)
            failure = ServerFailure("an error of ours; the log has it", code="internal_error")
            await self._fail(call, failure, request, reply)
        finally:
            call.close()

    async def answer(self, call: Call, request: HttpRequest, reply: Reply) -> None:
        """Raises ApiError where there is no answer."""
        raise NotImplementedError

    async def read(self, request: HttpRequest) -> dict[str, Any]:
        """The body, of one who may ask while the door is open. Raises ApiError."""
        self._access.check(request)
        self._desk.door.check()
        return parse_object(await read_body(request, self._access.max_body_bytes))

    async def _fail(self, call: Call, error: ApiError, request: HttpRequest, reply: Reply) -> None:
        call.fail(error)
        if reply.has_begun:
            await reply.break_off(error)
        else:
            await error_response(error)(request.scope, request.receive, reply)


async def cancel_when_gone(receive: Receive, call: Call) -> None:
    """Wait for the client to close the connection, which is all that can still come from it."""
    while (await receive())["type"] != "http.disconnect":
        pass
    call.cancel()


__all__ = ["CallEndpoint", "cancel_when_gone"]
