"""The beginning and the end of a body that passes by, decoded; never more memory than a few bounds.

What is wanted of an answer (its id, its model, its usage) stands at its beginning or its end, in one JSON object as in a
stream of events, so what lies between is looked at by nobody. Chunks are only put aside while they come: they are decoded
when there are too many of them, or by whoever reads the excerpt. Memory that is kept until then is cold when it is read, and
so is what the application gets in its place: a stream whose ends say everything is cut down to them when it is over.
"""

import re
import zlib
from collections.abc import Callable
from importlib import import_module
from itertools import islice
from typing import Any

HEAD_BYTES = 16 * 1024
TAIL_BYTES = 64 * 1024
FRESH_BYTES = 64 * 1024
_FIRST_BYTES, _LAST_BYTES = 2 * 1024, 4 * 1024  # of a stream that is cut down
_STREAMS = (b"data:", b"event:")
# Behind a last event that is longer than what is kept, nobody could tell that it was the last one.
_ENDS = (b"[DONE]", b'"message_stop"', b'"response.completed"')
_ID, _MODEL = re.compile(rb'"id"\s*:\s*"([^"]?)'), re.compile(rb'"model"\s*:\s*"([^"]?)')
_USAGE = re.compile(rb'"usage"\s*:\s*(\{)')

Decode = Callable[[bytes], bytes]


class Excerpt:
    """Fed with the chunks of a body; keeps its head and its tail."""

    __slots__ = ("_counted", "_decode", "_fresh", "_fresh_bytes", "_head", "_tail", "is_whole")

    def __init__(self, content_encoding: str = "") -> None:
        """Raises LookupError where nothing here reads that encoding."""
        self._decode = decoder(content_encoding)
        self._fresh: list[bytes] = []  # as they came from the wire
        self._counted = 0  # of them
        self._fresh_bytes = 0  # of these
        self._head = b""
        self._tail = b""
        self.is_whole = True  # nothing was left out between head and tail

    def feed(self, chunk: bytes) -> None:
        """Take the next chunk, as it came from the wire. Raises what the decoder raises, then or when it is read."""
        self._fresh.append(chunk)
        self._counted += 1
        self._fresh_bytes += len(chunk)
        if self._fresh_bytes > FRESH_BYTES:
            self._take()

    def room(self) -> list[bytes]:
        """Where the next few chunks may be put without asking each time. Raises what the decoder raises."""
        if self._count() > FRESH_BYTES:
            self._take()
        return self._fresh

    def _count(self) -> int:
        fresh = self._fresh
        if len(fresh) > self._counted:
            self._fresh_bytes += sum(map(len, islice(fresh, self._counted, None)))
            self._counted = len(fresh)
        return self._fresh_bytes

    def _take(self) -> None:
        fresh = self._fresh
        self._fresh, self._counted, self._fresh_bytes = [], 0, 0
        passed = fresh[0] if len(fresh) == 1 else b"".join(fresh)
        if self._decode is not None:
            passed = self._decode(passed)
        room = HEAD_BYTES - len(self._head)
        if room > 0:
            self._head += passed[:room]
            passed = passed[room:]
        if passed:
            self.is_whole = self.is_whole and len(self._tail) + len(passed) <= TAIL_BYTES
            if len(passed) < TAIL_BYTES:
                passed = self._tail + passed
            self._tail = passed[-TAIL_BYTES:]

    def shorten(self) -> None:
        """Let go of the middle of a stream that came whole, where its ends have its id, its model and its usage."""
        if self._decode is not None or self._head or self._count() < 2 * _LAST_BYTES:
            return
        if not self._fresh[0].startswith(_STREAMS):
            return
        whole = b"".join(self._fresh)
        first, last = whole[:_FIRST_BYTES], whole[-_LAST_BYTES:]
        # Anthropic's stream begins with what it has read.
        wanted = (_ID, _MODEL, _USAGE) if b"message_start" in first else (_ID, _MODEL)
        if not any(end in last for end in _ENDS):
            return
        if _USAGE.search(last) and all(_says(each, first) for each in wanted):
            self._head, self._tail, self.is_whole = first, last, False
            self._fresh, self._counted, self._fresh_bytes = [], 0, 0

    def size_bytes(self) -> int:
        """What is kept."""
        return len(self._head) + len(self._tail) + self._count()

    @property
    def head(self) -> bytes:
        """The beginning; the whole body where it was short. Raises what the decoder raises."""
        if self._fresh:
            self._take()
        return self._head

    @property
    def tail(self) -> bytes:
        """What came after the head, or the end of it. Raises what the decoder raises."""
        if self._fresh:
            self._take()
        return self._tail


def _says(name: re.Pattern[bytes], text: bytes) -> bool:
    """Whether the first of this name has a value; Azure's first event names nothing."""
    found = name.search(text)
    return found is not None and bool(found[1])


def decoder(content_encoding: str) -> Decode | None:
    """What undoes one Content-Encoding, chunk by chunk; None where there is none. Raises LookupError."""
    name = content_encoding.strip().lower()
    if name in ("", "identity"):
        return None
    if name in ("gzip", "x-gzip", "deflate"):
        return _Inflate().decode
    if name == "br":
        return _brotli()
    if name == "zstd":
        return _zstandard()
    raise LookupError(f"Content-Encoding {content_encoding!r}: expected gzip, deflate, br or zstd")


class _Inflate:
    """gzip, zlib or raw deflate; servers send all three under two names."""

    def __init__(self) -> None:
        self._inflate: Any = None

    def decode(self, chunk: bytes) -> bytes:
        if self._inflate is not None:
            return bytes(self._inflate.decompress(chunk))
        if not chunk:
            return b""
        try:
            self._inflate = zlib.decompressobj(47)  # gzip or zlib, by the header
            return bytes(self._inflate.decompress(chunk))
        except zlib.error:
            self._inflate = zlib.decompressobj(-15)
            return bytes(self._inflate.decompress(chunk))


def _brotli() -> Decode:
    """The application's client can read br only where one of these is installed, so it is here, too."""
    try:
        brotli: Any = import_module("brotli")
    except ImportError:
        brotli = import_module("brotlicffi")
    inflate = brotli.Decompressor()
    decode: Decode = getattr(inflate, "decompress", None) or inflate.process
    return decode


def _zstandard() -> Decode:
    zstandard: Any = import_module("zstandard")
    decode: Decode = zstandard.ZstdDecompressor().decompressobj().decompress
    return decode
