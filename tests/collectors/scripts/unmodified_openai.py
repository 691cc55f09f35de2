"""An application that knows nothing of costwatch, with OpenAI's client."""

import asyncio
import contextlib
import os
from typing import Any

import openai

URL = os.environ["PROVIDER_URL"] + "/v1"
ASK: Any = {"messages": [{"role": "user", "content": "the secret prompt"}]}
client = openai.OpenAI(base_url=URL, api_key="sk-none", max_retries=0)

client.chat.completions.create(model="whole", **ASK)
counted: Any = {"stream": True, "stream_options": {"include_usage": True}}
list(client.chat.completions.create(model="stream", **counted, **ASK))
client.chat.completions.with_raw_response.create(model="raw", **ASK)
client.responses.create(model="response", input="the secret prompt")
client.embeddings.create(model="embedding", input="the secret prompt")
# The instrumentation does not know this old one.
client.completions.create(model="old", prompt="the secret prompt")
with contextlib.suppress(openai.RateLimitError):
    client.chat.completions.create(model="busy", **ASK)


async def later() -> None:
    async with openai.AsyncOpenAI(base_url=URL, api_key="sk-none") as asynchronous:
        await asynchronous.chat.completions.create(model="async", **ASK)
        async for _ in await asynchronous.chat.completions.create(
            model="async-stream", **counted, **ASK
        ):
            pass


asyncio.run(later())
