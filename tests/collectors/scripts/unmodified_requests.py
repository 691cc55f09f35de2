"""An application that talks to providers by requests and urllib3 alone."""

import contextlib
import json
import os
from typing import Any

import requests
import urllib3

URL = os.environ["PROVIDER_URL"]
CHAT = URL + "/v1/chat/completions"
COUNTED = {"stream": True, "stream_options": {"include_usage": True}}


def ask(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "the secret prompt"}], **more}


requests.post(CHAT, json=ask("whole"), timeout=10).json()
assert requests.post(CHAT, json=ask("gzip-whole"), timeout=10).json()["object"] == "chat.completion"
assert requests.post(CHAT, json=ask("busy"), timeout=10).status_code == 429
with requests.Session() as session:
    with session.post(CHAT, json=ask("stream", **COUNTED), stream=True) as response:
        assert list(response.iter_lines())[-2:] == [b"data: [DONE]", b""]
    with session.post(CHAT, json=ask("to-done", **COUNTED), stream=True) as response:
        for line in response.iter_lines(chunk_size=1):
            if line == b"data: [DONE]":
                break
    with session.post(CHAT, json=ask("abandoned", **COUNTED), stream=True) as response:
        next(response.iter_content(20))
    session.post(URL + "/v1/embeddings", json=ask("embedding"))
    session.post(URL + "/v1/messages", json=ask("message-stream", stream=True))
    with contextlib.suppress(requests.exceptions.ChunkedEncodingError):
        session.post(URL + "/v1/messages", json=ask("cut-stream", stream=True))

pool = urllib3.PoolManager()
urllib3.util.Retry.DEFAULT = urllib3.util.Retry(0)
pool.request("POST", CHAT, body=json.dumps(ask("read-ahead")))
slow = pool.request("POST", CHAT, body=json.dumps(ask("bit-by-bit")), preload_content=False)
while slow.read(7):
    pass
raw = pool.request(
    "POST", CHAT, body=json.dumps(ask("gzip-raw")), preload_content=False, decode_content=False
)
assert raw.read()[:2] == b"\x1f\x8b"
