"""An application that calls OpenAI from everywhere. Each call's model says where it was made."""

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import collectors

configured = collectors.configure(team="default", service_name="app", environment="test")

import openai  # noqa: E402  an application may import it before or after

PROVIDER = os.environ["PROVIDER_URL"] + "/v1"
client = openai.OpenAI(base_url=PROVIDER, api_key="sk-none")
MESSAGES: Any = [{"role": "user", "content": "the secret prompt"}]


def call(model: str, **options: Any) -> None:
    client.chat.completions.create(model=model, messages=MESSAGES, **options)


async def call_later(model: str, team: str) -> None:
    async with openai.AsyncOpenAI(base_url=PROVIDER, api_key="sk-none") as later:
        with collectors.attribute(team=team):
            await asyncio.sleep(0)
            await later.chat.completions.create(model=model, messages=MESSAGES)


async def tasks() -> None:
    await asyncio.gather(call_later("task-1", "one"), call_later("task-2", "two"))


@collectors.attribute(feature="decorated")
def decorated() -> None:
    call("decorated")


call("plain")
list(client.chat.completions.create(model="silent-stream", messages=MESSAGES, stream=True))
with collectors.attribute(team="search", feature="answers", customer="acme"):
    call("block")
    counted = client.chat.completions.create(
        model="stream", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    for _ in counted:
        pass
    with collectors.attribute(feature="inner", user="alice", session="s-1"):
        call("nested")
        with ThreadPoolExecutor(1) as pool:
            pool.submit(call, "pool").result()
        thread = threading.Thread(target=call, args=("thread",))
        thread.start()
        thread.join()
    call("after-nested")
    asyncio.run(tasks())
decorated()
call("after-block")
assert configured.flush()
configured.shutdown()
