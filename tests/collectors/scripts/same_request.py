"""One request, asked by each client that is named on the command line; it knows nothing of costwatch."""

import os
import sys
from typing import Any

URL = os.environ["PROVIDER_URL"]
CHAT = URL + "/v1/chat/completions"
MESSAGES: list[Any] = [
    {"role": "system", "content": "the secret prompt, with “quotes”. " * 200},
    {"role": "user", "content": [{"type": "text", "text": "And Paris?"}]},
]
REQUEST: dict[str, Any] = {"temperature": 0, "messages": MESSAGES, "seed": 7}


def ask_openai(model: str) -> None:
    import openai

    client = openai.OpenAI(base_url=URL + "/v1", api_key="sk-none")
    client.chat.completions.create(model=model, **REQUEST)


def ask_httpx(model: str) -> None:
    import httpx

    httpx.post(CHAT, json={"model": model, **REQUEST})


def ask_requests(model: str) -> None:
    import requests

    requests.post(CHAT, json={**REQUEST, "model": model, "user": "somebody"}, timeout=10)


def ask_aiohttp(model: str) -> None:
    import asyncio

    import aiohttp

    async def ask() -> None:
        async with aiohttp.ClientSession() as session:
            await (await session.post(CHAT, json={**REQUEST, "model": model})).read()

    asyncio.run(ask())


def ask_anthropic(model: str) -> None:
    import anthropic

    client = anthropic.Anthropic(base_url=URL, api_key="none")
    said: list[Any] = MESSAGES[1:]
    client.messages.create(model=model, messages=said, max_tokens=9, system=MESSAGES[0]["content"])


def ask_anthropic_by_httpx(model: str) -> None:
    import httpx

    said = {"system": MESSAGES[0]["content"], "messages": MESSAGES[1:]}
    httpx.post(URL + "/v1/messages", json={**said, "max_tokens": 9, "model": model})


def embed_by_openai(model: str) -> None:
    import openai

    client = openai.OpenAI(base_url=URL + "/v1", api_key="sk-none")
    client.embeddings.create(model=model, input="the secret prompt")


def embed_by_httpx(model: str) -> None:
    import httpx

    httpx.post(URL + "/v1/embeddings", json={"input": ["the secret prompt"], "model": model})


WAYS = {
    "openai": ask_openai,
    "httpx": ask_httpx,
    "requests": ask_requests,
    "aiohttp": ask_aiohttp,
    "anthropic": ask_anthropic,
    "anthropic-httpx": ask_anthropic_by_httpx,
    "embeddings": embed_by_openai,
    "embeddings-httpx": embed_by_httpx,
}
for way in sys.argv[1:]:
    WAYS[way]("same")
