"""Providers on loopback, by their documented protocols, with a log of what they counted; and a receiver of OTLP.

What the provider does beside answering is named in the model: "gzip-…" answers compressed, "busy-…" with 429, "cut-…"
breaks the connection in mid-answer, "failing-…" sends an error in its stream.
"""

import gzip
import itertools
import json
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from collectors.metrics import decode_metrics
from collectors.observation import Observation, Usage
from collectors.otlp import decode_traces, decompress

Event = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Counted:
    """One call as the provider counted it."""

    response_id: str
    model: str
    usage: Usage
    streaming: bool
    headers: dict[str, str]
    status: int = 200
    body: bytes = b""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    seen: Any

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news here."""


@contextmanager
def _serving(handler: type[BaseHTTPRequestHandler], seen: Any, port: int = 0) -> Iterator[int]:
    server = _Server(("127.0.0.1", port), handler)
    server.seen = seen
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def received(self) -> tuple[bytes, dict[str, str]]:
        headers = {name.lower(): value for name, value in self.headers.items()}
        return self.rfile.read(int(headers.get("content-length", 0))), headers

    def log_message(self, *_: Any) -> None:
        pass


# The receiver


@dataclass
class Received:
    """What a receiver took, and how it answers."""

    bodies: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    answer: Callable[[str, int], tuple[int, dict[str, str]]] = lambda _path, _number: (200, {})
    attempts: int = 0

    def observations(self) -> list[Observation]:
        return [
            observation
            for path, headers, body in self.bodies
            if path == "/v1/traces"
            for observation in decode_traces(
                body, content_type=headers["content-type"]
            ).observations
        ]

    def metrics(self) -> int:
        return sum(
            decode_metrics(body, content_type=headers["content-type"]).items
            for path, headers, body in self.bodies
            if path == "/v1/metrics"
        )


class _Receiver(_Handler):
    def do_POST(self) -> None:
        body, headers = self.received()
        seen: Received = self.server.seen
        seen.attempts += 1
        status, said = seen.answer(self.path, seen.attempts)
        if status == 200:
            body = decompress(body, headers.get("content-encoding", ""), 10**7)
            seen.bodies.append((self.path, headers, body))
        self.send_response(status)
        for name, value in {"content-length": "0", **said}.items():
            self.send_header(name, value)
        self.end_headers()


@contextmanager
def receiving(seen: Received | None = None, port: int = 0) -> Iterator[tuple[str, Received]]:
    """A receiver of OTLP; yields its URL and what it takes."""
    seen = seen or Received()
    with _serving(_Receiver, seen, port) as served:
        yield f"http://127.0.0.1:{served}", seen


# The provider


@dataclass
class Log:
    """Every call that the provider answered, in its own words."""

    counted: list[Counted] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def by_model(self) -> dict[str, Counted]:
        return {each.model: each for each in self.counted}


@contextmanager
def providing() -> Iterator[tuple[str, Log]]:
    """A provider that speaks all protocols; yields its URL and its log."""
    log = Log()
    with _serving(_Provider, log) as port:
        yield f"http://127.0.0.1:{port}", log


class _Provider(_Handler):
    def do_POST(self) -> None:
        body, headers = self.received()
        asked = json.loads(body)
        path = urlsplit(self.path).path
        log: Log = self.server.seen
        number = next(log.numbers)
        if ":" in path:
            asked["model"], _, verb = path.rpartition("/")[2].partition(":")
            asked["stream"] = verb.startswith("stream")
        elif "/deployments/" in path:
            asked["model"] = path.split("/")[3]
        reply = _reply_to(path)(asked, number)
        streaming = bool(asked.get("stream"))
        model = asked["model"]
        status = 429 if model.startswith("busy") else 200
        log.counted.append(
            Counted(reply.response_id, model, reply.usage, streaming, headers, status, body)
        )
        if status != 200:
            error = {"error": {"type": "rate_limit_error", "message": "slow down", "code": None}}
            self._whole(json.dumps(error).encode(), status)
        elif streaming:
            self._stream(reply.events, model)
        else:
            self._whole(json.dumps(reply.whole).encode(), compress=model.startswith("gzip"))

    def _whole(self, body: bytes, status: int = 200, *, compress: bool = False) -> None:
        body = gzip.compress(body) if compress else body
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        if compress:
            self.send_header("content-encoding", "gzip")
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, events: list[Event], model: str) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        if model.startswith("failing"):
            error = {"type": "error", "error": {"type": "overloaded_error", "message": "later"}}
            events = [*events[:2], ("error", error)]
        if model.startswith("cut"):
            events = events[:2]
        for name, event in events:
            text = event if isinstance(event, str) else json.dumps(event)
            self._chunk((f"event: {name}\n" if name else "") + f"data: {text}\n\n")
        if model.startswith("cut"):
            self.close_connection = True
            return
        self._chunk("")

    def _chunk(self, text: str) -> None:
        data = text.encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()


@dataclass(frozen=True)
class Reply:
    """An answer in both forms, and what it counts."""

    response_id: str
    usage: Usage
    whole: dict[str, Any]
    events: list[Any]


def _reply_to(path: str) -> Callable[[dict[str, Any], int], Reply]:
    if ":" in path:
        return _google
    replies = {"/messages": _anthropic, "/responses": _responses, "/embeddings": _embeddings}
    return next((reply for ending, reply in replies.items() if path.endswith(ending)), _chat)


RUN = secrets.token_hex(6)  # providers never give an id twice


def _chat(asked: dict[str, Any], number: int) -> Reply:
    response_id = f"chatcmpl-{RUN}{number:012d}"
    usage = {
        "prompt_tokens": 100 + number,
        "completion_tokens": 20 + number,
        "total_tokens": 120 + 2 * number,
        "prompt_tokens_details": {"cached_tokens": 64, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 7},
    }
    common = {"id": response_id, "created": 1, "model": f"{asked['model']}-0806"}
    message = {"role": "assistant", "content": 'Paris, as in {"usage": {"prompt_tokens": 1}}.'}
    whole = {
        **common,
        "object": "chat.completion",
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        "usage": usage,
        "service_tier": "default",
    }
    chunk = {**common, "object": "chat.completion.chunk", "usage": None}
    events: list[Any] = [
        (
            "",
            {**chunk, "choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]},
        )
        for word in ("Paris", ", of", " course", ".")
    ]
    events.append(("", {**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
    if asked.get("stream_options", {}).get("include_usage"):
        events.append(("", {**chunk, "choices": [], "usage": usage}))
    events.append(("", "[DONE]"))
    return Reply(response_id, Usage(36 + number, 64, None, 20 + number, 7), whole, events)


def _responses(asked: dict[str, Any], number: int) -> Reply:
    response_id = f"resp_{RUN}{number:020d}"
    text = {"type": "output_text", "text": "Paris.", "annotations": []}
    whole = {
        "id": response_id,
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "model": asked["model"],
        "output": [
            {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [text]}
        ],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": 50 + number,
            "input_tokens_details": {"cached_tokens": 32},
            "output_tokens": 9,
            "output_tokens_details": {"reasoning_tokens": 4},
            "total_tokens": 59 + number,
        },
    }  # fmt: skip
    begun = {**whole, "status": "in_progress", "output": [], "usage": None}
    events = [
        ("response.created", {"type": "response.created", "sequence_number": 0, "response": begun}),
        (
            "response.completed",
            {"type": "response.completed", "sequence_number": 1, "response": whole},
        ),
    ]
    return Reply(response_id, Usage(18 + number, 32, None, 9, 4), whole, events)


def _embeddings(asked: dict[str, Any], number: int) -> Reply:
    vector = [0.0123456789 + place for place in range(2_000)]
    whole = {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": vector}] * 6,
        "model": asked["model"],
        "usage": {"prompt_tokens": 8, "total_tokens": 8},
    }
    return Reply("", Usage(8), whole, [])


def _anthropic(asked: dict[str, Any], number: int) -> Reply:
    response_id = f"msg_{RUN}{number:012d}"
    cached = {"cache_read_input_tokens": 40, "cache_creation_input_tokens": 10}
    message = {
        "id": response_id,
        "type": "message",
        "role": "assistant",
        "model": asked["model"],
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 5 + number, **cached, "output_tokens": 1},
    }
    whole = {
        **message,
        "content": [{"type": "text", "text": "Paris."}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 5 + number, **cached, "output_tokens": 12},
    }
    block = {"type": "text", "text": ""}
    delta = {"type": "text_delta", "text": "Paris."}
    end = {"stop_reason": "end_turn", "stop_sequence": None}
    events = [
        ("message_start", {"type": "message_start", "message": message}),
        (
            "content_block_start",
            {"type": "content_block_start", "index": 0, "content_block": block},
        ),
        ("ping", {"type": "ping"}),
        ("content_block_delta", {"type": "content_block_delta", "index": 0, "delta": delta}),
        ("content_block_stop", {"type": "content_block_stop", "index": 0}),
        ("message_delta", {"type": "message_delta", "delta": end, "usage": {"output_tokens": 12}}),
        ("message_stop", {"type": "message_stop"}),
    ]
    return Reply(response_id, Usage(5 + number, 40, 10, 12), whole, events)


def _google(asked: dict[str, Any], number: int) -> Reply:
    response_id = f"gemini-response-{RUN}{number:08d}"
    part = {"content": {"role": "model", "parts": [{"text": "Paris."}]}, "index": 0}
    usage = {
        "promptTokenCount": 90 + number,
        "cachedContentTokenCount": 30,
        "candidatesTokenCount": 6,
        "thoughtsTokenCount": 11,
        "totalTokenCount": 107 + number,
    }
    common = {"modelVersion": asked["model"], "responseId": response_id}
    early = {"promptTokenCount": 90 + number, "totalTokenCount": 90 + number}
    last = {"candidates": [{**part, "finishReason": "STOP"}], "usageMetadata": usage, **common}
    events = [("", {"candidates": [part], "usageMetadata": early, **common}), ("", last)]
    return Reply(response_id, Usage(60 + number, 30, None, 17, 11), last, events)
