"""An application that talks to providers by httpx alone."""

import asyncio
import contextlib
import os
from typing import Any

import httpx

URL = os.environ["PROVIDER_URL"]
CHAT = "/v1/chat/completions"
COUNTED = {"stream": True, "stream_options": {"include_usage": True}}


def ask(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "the secret prompt"}], **more}


with httpx.Client(base_url=URL) as client:
    client.get("/v1/models")
    whole = client.post(CHAT, json=ask("whole")).json()
    assert whole["choices"][0]["message"]["content"].startswith("Paris")
    client.post(CHAT, json=ask("gzip-whole"))
    assert client.post(CHAT, json=ask("busy")).status_code == 429
    with client.stream("POST", CHAT, json=ask("stream", **COUNTED)) as response:
        lines = list(response.iter_lines())
    assert lines[-2:] == ["data: [DONE]", ""], lines[-2:]
    with client.stream("POST", CHAT, json=ask("to-done", **COUNTED)) as response:
        for line in response.iter_lines():
            if line == "data: [DONE]":
                break
    with client.stream("POST", CHAT, json=ask("abandoned", **COUNTED)) as response:
        next(response.iter_lines())
    with client.stream("POST", CHAT, json=ask("silent", stream=True)) as response:
        response.read()
    with client.stream("POST", "/v1/messages", json=ask("failing-stream", stream=True)) as response:
        response.read()
    with contextlib.suppress(httpx.RemoteProtocolError):
        client.post("/v1/messages", json=ask("cut-stream", stream=True))
    client.post("/openai/deployments/azure/chat/completions?api-version=1", json={"messages": []})
    client.post("/v1/responses", json=ask("response"))
    client.post("/v1/responses", json=ask("response-stream", stream=True))
    client.post("/v1/embeddings", json=ask("embedding"))
    client.post("/v1/messages", json=ask("message"))
    client.post("/v1/messages", json=ask("message-stream", stream=True))
    client.post("/v1beta/models/gemini:generateContent", json={"contents": []})
    client.post("/v1beta/models/gemini-s:streamGenerateContent?alt=sse", json={"contents": []})


async def later() -> None:
    async with httpx.AsyncClient(base_url=URL) as asynchronous:
        await asynchronous.post(CHAT, json=ask("async"))
        request = asynchronous.stream("POST", CHAT, json=ask("async-stream", **COUNTED))
        async with request as response:
            async for _ in response.aiter_bytes():
                pass
        async with asynchronous.stream(
            "POST", CHAT, json=ask("async-abandoned", **COUNTED)
        ) as left:
            async for _ in left.aiter_lines():
                break


asyncio.run(later())
with contextlib.suppress(httpx.ConnectError):
    httpx.post("http://127.0.0.1:9" + CHAT, json=ask("nobody-there"))
