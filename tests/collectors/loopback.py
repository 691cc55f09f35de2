"""Servers on loopback that speak the providers' protocols, and a sink that speaks OTLP."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from collectors.observation import Observation
from collectors.otlp import decode_traces, decompress


@dataclass
class Loopback:
    """What was sent to one server that is provider and sink at once."""

    url: str
    provider_headers: list[dict[str, str]] = field(default_factory=list)
    telemetry: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    def observations(self) -> list[Observation]:
        return [
            observation
            for path, headers, body in self.telemetry
            if path == "/v1/traces"
            for observation in decode_traces(
                body, content_type=headers["content-type"]
            ).observations
        ]


@contextmanager
def running(port: int = 0) -> Iterator[Loopback]:
    server = ThreadingHTTPServer(("127.0.0.1", port), _Handler)
    server.daemon_threads = True
    server.seen = Loopback(f"http://127.0.0.1:{server.server_address[1]}")  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.seen  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        seen: Loopback = self.server.seen  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        if self.path in ("/v1/traces", "/v1/metrics"):
            body = decompress(body, headers.get("content-encoding", ""), 10**7)
            seen.telemetry.append((self.path, headers, body))
            self._answer("application/x-protobuf", b"")
            return
        seen.provider_headers.append(headers)
        asked = json.loads(body)
        reply = _anthropic if self.path == "/v1/messages" else _openai
        if asked.get("stream"):
            self._answer("text/event-stream", b"".join(_events(reply(asked), asked)))
        else:
            self._answer("application/json", json.dumps(reply(asked)).encode())

    def _answer(self, content_type: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def _openai(asked: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{asked['model']}",
        "object": "chat.completion",
        "created": 1,
        "model": asked["model"],
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": "Paris."},
            }
        ],
        "usage": {"prompt_tokens": 20, "completion_tokens": 3, "total_tokens": 23},
    }


def _anthropic(asked: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": f"msg-{asked['model']}",
        "type": "message",
        "role": "assistant",
        "model": asked["model"],
        "content": [{"type": "text", "text": "Paris."}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 5,
            "cache_read_input_tokens": 40,
            "cache_creation_input_tokens": 10,
            "output_tokens": 3,
        },
    }


def _events(whole: dict[str, Any], asked: dict[str, Any]) -> Iterator[bytes]:
    """OpenAI's stream of chunks; the last one has the usage where it was asked for."""
    chunk = {**whole, "object": "chat.completion.chunk", "usage": None}
    for delta, finish in (({"role": "assistant", "content": "Paris."}, None), ({}, "stop")):
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        yield b"data: " + json.dumps({**chunk, "choices": [choice]}).encode() + b"\n\n"
    if asked.get("stream_options", {}).get("include_usage"):
        yield b"data: " + json.dumps({**chunk, "choices": [], "usage": whole["usage"]}).encode()
        yield b"\n\n"
    yield b"data: [DONE]\n\n"
