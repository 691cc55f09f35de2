"""A provider's reports on loopback, by the protocols that OpenAI and Anthropic document: pages, keys, rate limits.

The days of a report are given by path; each is a list of results. What goes wrong is queued in `faults`, and answered
before anything else.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

OPENAI_KEY = "sk-admin-tests"
ANTHROPIC_KEY = "sk-ant-admin-tests"


@dataclass
class Fault:
    """An answer that is none. hangs: nothing is said until the client goes."""

    status: int
    body: object = None
    headers: dict[str, str] = field(default_factory=dict)
    cuts: bool = False


@dataclass
class Provider:
    results: dict[str, dict[date, list[dict[str, Any]]]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    asked: list[tuple[str, dict[str, list[str]]]] = field(default_factory=list)
    most_buckets: int = 31  # of a page, whatever is asked for
    url: str = ""

    def has(self, path: str, day: date, *results: dict[str, Any]) -> None:
        self.results.setdefault(path, {}).setdefault(day, []).extend(results)

    def answer(self, path: str, asked: dict[str, list[str]]) -> dict[str, Any]:
        """A page: as many buckets as are asked for, from where the cursor says."""
        is_openai = path.startswith("/v1/organization/")
        if is_openai:
            first, last = (_day_of(asked[name][0]) for name in ("start_time", "end_time"))
        else:
            first, last = (
                datetime.fromisoformat(asked[name][0]).date()
                for name in ("starting_at", "ending_at")
            )
        assert asked["bucket_width"] == ["1d"]
        if "page" in asked:
            first = date.fromisoformat(base64.b64decode(asked["page"][0]).decode())
        days = [first + timedelta(days=n) for n in range((last - first).days)]
        shown = days[: min(self.most_buckets, int(asked["limit"][0]))]
        bucket = _openai_bucket if is_openai else _anthropic_bucket
        by_day = self.results.get(path, {})
        has_more = len(shown) < len(days)
        cursor = base64.b64encode(str(shown[-1] + timedelta(days=1)).encode()).decode()
        return {
            "object": "page",
            "data": [bucket(day, by_day.get(day, [])) for day in shown],
            "has_more": has_more,
            "next_page": cursor if has_more else None,
        }


def _day_of(unix_seconds: str) -> date:
    moment = datetime.fromtimestamp(int(unix_seconds), UTC)
    assert moment.time() == time(), "a bucket begins at midnight of UTC"
    return moment.date()


def _openai_bucket(day: date, results: list[dict[str, Any]]) -> dict[str, Any]:
    start = int(datetime.combine(day, time(), UTC).timestamp())
    return {"object": "bucket", "start_time": start, "end_time": start + 86_400, "results": results}


def _anthropic_bucket(day: date, results: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "starting_at": f"{day}T00:00:00Z",
        "ending_at": f"{day + timedelta(days=1)}T00:00:00Z",
        "results": results,
    }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        provider = self.server.provider
        parts = urlsplit(self.path)
        asked = parse_qs(parts.query)
        provider.asked.append((parts.path, asked))
        if provider.faults:
            self._fail(provider.faults.pop(0))
        elif not self._is_let_in(parts.path):
            self._say(401, {"error": {"message": f"Incorrect API key provided: {self._key()}"}})
        else:
            self._say(200, provider.answer(parts.path, asked))

    def _key(self) -> str:
        bearer = self.headers.get("authorization", "").removeprefix("Bearer ")
        return bearer or self.headers.get("x-api-key", "")

    def _is_let_in(self, path: str) -> bool:
        if path.startswith("/v1/organization/"):
            return self.headers.get("authorization") == f"Bearer {OPENAI_KEY}"
        return (
            self.headers.get("x-api-key") == ANTHROPIC_KEY
            and self.headers.get("anthropic-version") == "2023-06-01"
        )

    def _fail(self, fault: Fault) -> None:
        if fault.cuts:
            self.send_response(200)
            self.send_header("content-length", "1000")
            self.end_headers()
            self.wfile.write(b'{"data": [')
            self.close_connection = True
            return
        self._say(fault.status, fault.body, fault.headers)

    def _say(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    provider: Provider


@contextmanager
def reporting() -> Iterator[Provider]:
    server = _Server(("127.0.0.1", 0), _Handler)
    server.provider = Provider(url=f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.provider
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
