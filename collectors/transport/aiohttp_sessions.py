"""aiohttp's client sessions."""

import functools
from importlib import import_module
from types import ModuleType
from typing import Any

from collectors.transport.call import Watch, begin


def patch(aiohttp: ModuleType) -> None:
    """Have this module's sessions tell of the calls that pass them. Once a process."""
    sessions: Any = aiohttp.ClientSession
    request = sessions._request
    watched_class = _stream_class(aiohttp.StreamReader)

    @functools.wraps(request)
    async def _request(self: Any, method: str, url: Any, **options: Any) -> Any:
        watch = _begin(self, method, url, options)
        if watch is None:
            return await request(self, method, url, **options)
        try:
            response = await request(self, method, url, **options)
        except BaseException as error:
            watch.answered(getattr(error, "status", 0) or 0)
            watch.fail(error)
            raise
        is_decoded = options.get("auto_decompress")
        is_decoded = self._auto_decompress if is_decoded is None else is_decoded
        _watch_response(response, watch, watched_class, is_decoded=is_decoded)
        return response

    sessions._request = _request


def _begin(session: Any, method: str, url: Any, options: dict[str, Any]) -> Watch | None:
    if method.upper() != "POST":
        return None
    try:
        whole = str(session._build_url(url))  # with the session's base_url
    except Exception:
        whole = str(url)  # the session itself will say what is wrong
    return begin("POST", whole, lambda: _body(session, options))


def _body(session: Any, options: dict[str, Any]) -> object:
    """The request's body. An object is written as JSON here, as the session would in a moment, and so only once."""
    data, said = options.get("data"), options.get("json")
    if said is None:
        return data
    if data is not None or getattr(session, "_json_serialize_bytes", None) is not None:
        return said  # both: the session will say what is wrong
    written = session.json_serialize(said)
    options["data"] = import_module("aiohttp").JsonPayload(said, dumps=lambda _: written)
    options["json"] = None
    return written


def _watch_response(response: Any, watch: Watch, watched_class: Any, *, is_decoded: bool) -> None:
    watch.answered(response.status)
    if not watch.reads_body:
        return
    try:
        encoding = "" if is_decoded else response.headers.get("content-encoding", "")
        watch.expect(encoding)
        if response._body is not None:
            watch.chunk(response._body)
            watch.end()
        else:
            watched_class.take(response.content, watch)
    except Exception as error:  # an unusual response: the call stands, its usage is unknown
        watch.fail(error)


def _stream_class(reader_class: Any) -> Any:
    """A stream reader that passes on what is read. It has no slots of its own, so that readers can become one."""
    watches: dict[int, Watch] = {}

    class WatchedReader(reader_class):  # type: ignore[misc]
        __slots__ = ()

        @classmethod
        def take(cls, content: Any, watch: Watch) -> None:
            """Watch what is read from here on. Raises TypeError where it cannot be."""
            if not isinstance(content, reader_class):
                watch.end()  # an answer without a body
                return
            content.__class__ = cls
            watches[id(content)] = watch
            content.on_eof(content._check_end)

        def _check_end(self) -> None:
            if self.at_eof():
                watch = watches.pop(id(self), None)
                if watch is not None:
                    watch.end()

        def _read_nowait_chunk(self, n: int) -> Any:
            data = super()._read_nowait_chunk(n)
            watch = watches.get(id(self))
            if watch is not None:
                watch.chunk(data)
                self._check_end()
            return data

        def set_exception(self, error: BaseException, *cause: Any) -> None:
            watch = watches.pop(id(self), None)
            if watch is not None:
                is_closed_here = type(error).__name__ == "ClientConnectionError"
                watch.abandon() if is_closed_here else watch.fail(error)
            super().set_exception(error, *cause)

        def __del__(self) -> None:
            watch = watches.pop(id(self), None)
            if watch is not None:
                watch.abandon()

    return WatchedReader
