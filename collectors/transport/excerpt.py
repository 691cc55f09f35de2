"""The beginning and the end of a body that passes by, decoded; never more memory than two bounds.

What is wanted of an answer (its id, its model, its usage) stands at its beginning or its end, in one JSON object as in a
stream of events, so what lies between is looked at by nobody.
"""

import zlib
from collections import deque
from collections.abc import Callable
from importlib import import_module
from typing import Any

HEAD_BYTES = 16 * 1024
TAIL_BYTES = 64 * 1024

Decode = Callable[[bytes], bytes]


class Excerpt:
    """Fed with the chunks of a body; keeps its head and its tail."""

    __slots__ = ("_decode", "_head", "_head_bytes", "_tail", "_tail_bytes", "is_whole")

    def __init__(self, content_encoding: str = "") -> None:
        """Raises LookupError where nothing here reads that encoding."""
        self._decode = decoder(content_encoding)
        self._head: list[bytes] = []
        self._head_bytes = 0
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0
        self.is_whole = True  # nothing was left out between head and tail

    def feed(self, chunk: bytes) -> None:
        """Take the next chunk, as it came from the wire. Raises what the decoder raises."""
        if self._decode is not None:
            chunk = self._decode(chunk)
        if self._head_bytes < HEAD_BYTES:
            self._head.append(chunk[:HEAD_BYTES])
            self._head_bytes += len(self._head[-1])
            chunk = chunk[HEAD_BYTES:]
        if chunk:
            self._keep(chunk[-TAIL_BYTES:], len(chunk))

    def _keep(self, chunk: bytes, size_bytes: int) -> None:
        self.is_whole = self.is_whole and size_bytes <= TAIL_BYTES
        self._tail.append(chunk)
        self._tail_bytes += len(chunk)
        while self._tail_bytes - len(self._tail[0]) >= TAIL_BYTES:
            self._tail_bytes -= len(self._tail.popleft())
            self.is_whole = False

    @property
    def head(self) -> bytes:
        """The beginning; the whole body where it was short."""
        return b"".join(self._head)

    @property
    def tail(self) -> bytes:
        """What came after the head, or the end of it."""
        return b"".join(self._tail)


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
