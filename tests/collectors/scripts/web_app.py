"""A WSGI application that calls a provider for each request."""

import os
from collections.abc import Callable, Iterable
from typing import Any

import httpx

URL = os.environ["PROVIDER_URL"] + "/v1/chat/completions"


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    model = environ["PATH_INFO"].strip("/")
    httpx.post(URL, json={"model": model, "messages": []})
    start_response("200 OK", [("content-length", "2")])
    return [b"ok"]
