"""urllib3's connection pools, and with them requests."""

import functools
from collections.abc import Iterator
from contextvars import ContextVar
from types import ModuleType
from typing import Any

from collectors.transport.call import Watch, begin

# A pool calls itself for retries and redirects: they are the same call.
_is_inside: ContextVar[bool] = ContextVar("costwatch-inside-urllib3", default=False)


def patch(urllib3: ModuleType) -> None:
    """Have this module's pools tell of the calls that pass them. Once a process."""
    pools: Any = urllib3.HTTPConnectionPool
    open_url = pools.urlopen

    @functools.wraps(open_url)
    def urlopen(
        self: Any, method: str, url: str, body: Any = None, *args: Any, **options: Any
    ) -> Any:
        watch = None
        if method == "POST" and not _is_inside.get():
            watch = begin(method, _whole(self, url), lambda: body)
        if watch is None:
            return open_url(self, method, url, body, *args, **options)
        token = _is_inside.set(True)
        try:
            response = open_url(self, method, url, body, *args, **options)
        except BaseException as error:
            watch.fail(error)
            raise
        finally:
            _is_inside.reset(token)
        _watch_response(response, watch)
        return response

    pools.urlopen = urlopen


def _whole(pool: Any, url: str) -> str:
    """The URL with its host; a proxy's pool is asked for whole ones."""
    if not url.startswith("/"):
        return url
    host = f"[{pool.host}]" if ":" in pool.host else pool.host
    return f"{pool.scheme}://{host}:{pool.port}{url}"


def _watch_response(response: Any, watch: Watch) -> None:
    watch.answered(response.status)
    if not watch.reads_body:
        return
    try:
        _read_or_watch(response, watch)
    except Exception as error:  # an unusual response class: the call stands, its usage is unknown
        watch.fail(error)


def _read_or_watch(response: Any, watch: Watch) -> None:
    encoding = response.headers.get("content-encoding", "")
    if isinstance(getattr(response, "_body", None), bytes):  # read ahead, and decoded
        watch.expect("" if response.decode_content else encoding)
        watch.chunk(response._body)
        watch.end()
        return
    _Reader(response, watch, encoding).attach()


_METHODS = ("read", "read1", "read_chunked", "stream", "close")


class _Reader:
    """Stands before a response's methods until its end. They are the response's attributes, so they find each other."""

    def __init__(self, response: Any, watch: Watch, encoding: str) -> None:
        self._response = response
        self._watch = watch
        self._encoding = encoding
        self._original = {
            name: getattr(response, name) for name in _METHODS if hasattr(response, name)
        }

    def attach(self) -> None:
        for name in self._original:
            setattr(self._response, name, getattr(self, name))

    def _detach(self) -> None:
        """A response that holds us, and we it, would have to wait for the garbage collector."""
        for name in self._original:
            self._response.__dict__.pop(name, None)

    def _end(self) -> None:
        self._watch.end()
        self._detach()

    def _fail(self, error: BaseException) -> None:
        self._watch.fail(error)
        self._detach()

    def _expect(self, decode_content: bool | None) -> None:
        is_decoded = self._response.decode_content if decode_content is None else decode_content
        self._watch.expect("" if is_decoded else self._encoding)

    def _pass(self, name: str, amt: int | None, decode_content: bool | None, options: Any) -> Any:
        self._expect(decode_content)
        try:
            data = self._original[name](amt, decode_content=decode_content, **options)
        except BaseException as error:
            self._fail(error)
            raise
        self._watch.chunk(data)
        if (amt is None and name == "read") or (not data and amt != 0):
            self._end()
        return data

    def read(
        self, amt: int | None = None, decode_content: bool | None = None, **options: Any
    ) -> Any:
        return self._pass("read", amt, decode_content, options)

    def read1(self, amt: int | None = None, decode_content: bool | None = None) -> Any:
        return self._pass("read1", amt, decode_content, {})

    def read_chunked(
        self, amt: int | None = None, decode_content: bool | None = None
    ) -> Iterator[bytes]:
        self._expect(decode_content)
        for chunk in self._to_end("read_chunked", amt, decode_content):
            self._watch.chunk(chunk)
            yield chunk
        self._end()

    def stream(
        self, amt: int | None = 2**16, decode_content: bool | None = None
    ) -> Iterator[bytes]:
        # It reads with read() or read_chunked() of the response, which are ours, so the chunks were seen.
        yield from self._to_end("stream", amt, decode_content)
        self._end()

    def _to_end(self, name: str, amt: int | None, decode_content: bool | None) -> Iterator[bytes]:
        try:
            yield from self._original[name](amt, decode_content=decode_content)
        except GeneratorExit:
            raise
        except BaseException as error:
            self._fail(error)
            raise

    def close(self) -> None:
        try:
            self._original["close"]()
        finally:
            self._watch.abandon()
            self._detach()
