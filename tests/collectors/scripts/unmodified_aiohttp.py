"""An application that talks to providers by aiohttp alone."""

import asyncio
import contextlib
import json
import os
from typing import Any

import aiohttp

URL = os.environ["PROVIDER_URL"]
CHAT = "/v1/chat/completions"
COUNTED = {"stream": True, "stream_options": {"include_usage": True}}


def ask(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "the secret prompt"}], **more}


async def main() -> None:
    async with aiohttp.ClientSession(URL) as session:
        async with session.post(CHAT, json=ask("whole")) as response:
            assert (await response.json())["object"] == "chat.completion"
        async with session.post(CHAT, data=json.dumps(ask("gzip-whole"))) as response:
            assert (await response.json(content_type=None))["object"] == "chat.completion"
        async with session.post(CHAT, json=ask("busy")) as response:
            assert response.status == 429
            await response.read()
        async with session.post(CHAT, json=ask("stream", **COUNTED)) as response:
            lines = [line async for line in response.content]
        assert lines[-2:] == [b"data: [DONE]\n", b"\n"]
        async with session.post(CHAT, json=ask("chunks", **COUNTED)) as response:
            async for _ in response.content.iter_chunks():
                pass
        async with session.post(CHAT, json=ask("abandoned", **COUNTED)) as response:
            await response.content.readline()
        async with session.post("/v1/embeddings", json=ask("embedding")) as response:
            await response.read()
        async with session.post(
            "/v1/messages", json=ask("message-stream", stream=True)
        ) as response:
            await response.text()
        with contextlib.suppress(aiohttp.ClientPayloadError):
            async with session.post(
                "/v1/messages", json=ask("cut-stream", stream=True)
            ) as response:
                await response.read()


asyncio.run(main())
