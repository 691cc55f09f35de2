"""A client that costs little: streams completions over bare sockets, a process of its own beside the server's.

Reads {"port", "bodies"} on stdin, asks for all bodies at once, and prints {"first_seconds", "all_seconds", "tokens"}: until the
last answer's first token, until the end of the last answer, and the tokens that the server counted. Only the standard library.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

_TIMEOUT_SECONDS = 580


@dataclass(frozen=True, slots=True)
class Streamed:
    first_seconds: float
    tokens: int


async def ask_all(port: int, bodies: list[dict[str, Any]]) -> dict[str, float]:
    began = time.perf_counter()
    streams = [_stream(port, body, began) for body in bodies]
    done = await asyncio.wait_for(asyncio.gather(*streams), _TIMEOUT_SECONDS)
    return {
        "all_seconds": time.perf_counter() - began,
        "first_seconds": max(each.first_seconds for each in done),
        "tokens": sum(each.tokens for each in done),
    }


async def _stream(port: int, body: dict[str, Any], began: float) -> Streamed:
    """Raises RuntimeError with what the server said where it did not answer to the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**22)
    writer.write(_request(port, json.dumps(body).encode()))
    status = await _read_head(reader)
    first_seconds, tokens, last = 0.0, 0, b""
    async for line in _lines(reader):
        if not line.startswith(b"data:") or b"[DONE]" in line:
            continue
        first_seconds = first_seconds or time.perf_counter() - began
        if b'"completion_tokens"' in line:
            tokens = json.loads(line[5:])["usage"]["completion_tokens"]
        last = line
    writer.close()
    if status != 200 or not tokens:
        raise RuntimeError(f"status {status}, {tokens} tokens, last line {last[:500]!r}")
    return Streamed(first_seconds, tokens)


def _request(port: int, body: bytes) -> bytes:
    lines = [
        "POST /v1/completions HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def _read_head(reader: asyncio.StreamReader) -> int:
    head = await reader.readuntil(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1])


async def _lines(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The lines of a body. The sizes between its chunks come as lines too: nobody takes them for data."""
    while line := await reader.readline():
        yield line


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    print(json.dumps(asyncio.run(ask_all(asked["port"], asked["bodies"]))))
