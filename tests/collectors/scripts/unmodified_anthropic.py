"""An application that knows nothing of costwatch, with Anthropic's client."""

import asyncio
import contextlib
import os
from typing import Any

import anthropic

URL = os.environ["PROVIDER_URL"]
ASK: Any = {"max_tokens": 9, "messages": [{"role": "user", "content": "the secret prompt"}]}
client = anthropic.Anthropic(base_url=URL, api_key="none", max_retries=0)

client.messages.create(model="whole", **ASK)
list(client.messages.create(model="stream", stream=True, **ASK))
with client.messages.stream(model="helper", **ASK) as stream:
    stream.get_final_message()
with contextlib.suppress(anthropic.RateLimitError):
    client.messages.create(model="busy", **ASK)


async def later() -> None:
    async with anthropic.AsyncAnthropic(base_url=URL, api_key="none") as asynchronous:
        await asynchronous.messages.create(model="async", **ASK)
        async for _ in await asynchronous.messages.create(model="async-stream", stream=True, **ASK):
            pass


asyncio.run(later())
