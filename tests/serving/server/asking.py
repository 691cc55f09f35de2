"""What tests ask of a server: through OpenAI's client, and without one."""

import json
import urllib.error
import urllib.request
from typing import Any

import openai


def chat(client: openai.OpenAI, text: str = "abc", **how: Any) -> Any:
    messages = [{"role": "user", "content": text}]
    return client.chat.completions.create(model="fake-model", messages=messages, **how)


def post(
    url: str, body: bytes, path: str = "/v1/completions", **headers: str
) -> tuple[int, dict[str, Any]]:
    """The status and the body of the answer."""
    request = urllib.request.Request(
        url + path, body, {"Content-Type": "application/json", **headers}
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)
