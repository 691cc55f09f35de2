"""An application that calls Anthropic, in a block and in a task."""

import asyncio
import os
from typing import Any

import anthropic

import collectors

configured = collectors.configure()
URL = os.environ["PROVIDER_URL"]
ASK: Any = {"max_tokens": 9, "messages": [{"role": "user", "content": "the secret prompt"}]}


async def call_later() -> None:
    async with anthropic.AsyncAnthropic(base_url=URL, api_key="none") as later:
        await later.messages.create(model="task", **ASK)


with collectors.attribute(team="search"):
    anthropic.Anthropic(base_url=URL, api_key="none").messages.create(model="block", **ASK)
    with collectors.attribute(customer="acme"):
        asyncio.run(call_later())
configured.shutdown()
