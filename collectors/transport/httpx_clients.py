"""httpx and httpx2, sync and async: their HTTP transports, below which nothing retries or redirects."""

import functools
from collections.abc import AsyncIterator, Iterator
from itertools import islice
from types import ModuleType
from typing import Any

from collectors.transport.call import Watch, begin

_FEW = 16  # chunks that are put aside without asking whether they are too many


def _begin(request: Any) -> Watch | None:
    return begin(request.method, str(request.url), lambda: _body(request))


def _body(request: Any) -> object:
    """The body where it is at hand; one that is still to be read from somewhere is left alone."""
    return getattr(request, "_content", None)


def patch(httpx: ModuleType) -> None:
    """Have this module's transports tell of the calls that pass them. Once a process."""
    sync, asynchronous = _streams(httpx)
    handle = httpx.HTTPTransport.handle_request
    handle_async = httpx.AsyncHTTPTransport.handle_async_request

    @functools.wraps(handle)
    def handle_request(self: Any, request: Any) -> Any:
        watch = _begin(request)
        if watch is None:
            return handle(self, request)
        try:
            response = handle(self, request)
        except BaseException as error:
            watch.fail(error)
            raise
        return _watched(response, watch, sync)

    @functools.wraps(handle_async)
    async def handle_async_request(self: Any, request: Any) -> Any:
        watch = _begin(request)
        if watch is None:
            return await handle_async(self, request)
        try:
            response = await handle_async(self, request)
        except BaseException as error:
            watch.fail(error)
            raise
        return _watched(response, watch, asynchronous)

    httpx.HTTPTransport.handle_request = handle_request
    httpx.AsyncHTTPTransport.handle_async_request = handle_async_request


def _watched(response: Any, watch: Watch, stream_class: Any) -> Any:
    watch.answered(response.status_code)
    if not watch.reads_body:
        return response
    watch.expect(response.headers.get("content-encoding", ""))
    response.stream = stream_class(response.stream, watch)
    return response


def _streams(httpx: ModuleType) -> tuple[type, type]:
    """Streams that pass on what they read, of the classes that this module's clients accept."""

    class WatchedStream(httpx.SyncByteStream):  # type: ignore[misc,name-defined]
        def __init__(self, stream: Any, watch: Watch) -> None:
            self._stream = stream
            self._watch = watch

        def __iter__(self) -> Iterator[bytes]:
            watch = self._watch
            chunks = iter(self._stream)
            count = _FEW
            try:
                for chunk in chunks:
                    watch.chunk(chunk)  # the first one's time is wanted
                    yield chunk
                    if chunk:
                        break
                while count == _FEW:
                    room = watch.room()
                    before = len(room)
                    for chunk in islice(chunks, _FEW):
                        room.append(chunk)
                        yield chunk
                    count = len(room) - before
            except GeneratorExit:
                raise  # whoever stops reading closes, too
            except BaseException as error:
                watch.fail(error)
                raise
            watch.end()

        def close(self) -> None:
            try:
                self._stream.close()
            finally:
                self._watch.abandon()

    class WatchedAsyncStream(httpx.AsyncByteStream):  # type: ignore[misc,name-defined]
        def __init__(self, stream: Any, watch: Watch) -> None:
            self._stream = stream
            self._watch = watch

        async def __aiter__(self) -> AsyncIterator[bytes]:
            watch = self._watch
            take = watch.chunk
            try:
                async for chunk in self._stream:
                    take(chunk)
                    yield chunk
            except GeneratorExit:
                raise
            except BaseException as error:
                watch.fail(error)
                raise
            watch.end()

        async def aclose(self) -> None:
            try:
                await self._stream.aclose()
            finally:
                self._watch.abandon()

    return WatchedStream, WatchedAsyncStream
