"""POST /tokenize and /detokenize, as vLLM has them: text or messages → token ids, and token ids → text.

They compute nothing on the device, so they are no calls: nobody pays for them.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from serving.server import fields, prompts, tools
from serving.server.doorway import Access, check_model, not_too_deep, read_body
from serving.server.errors import invalid, unsupported
from serving.server.runtime import Served
from serving.server.schemas import is_token_ids, parse_object, read_chat

_TOKENIZE = frozenset({"add_special_tokens", "model", "prompt", "return_token_strs"})
_CHAT = frozenset({"messages", "model", "return_token_strs"}) | tools.NAMES
# vLLM's, where only this one value is what our prompts are made of
_ONLY = {
    "add_generation_prompt": True,
    "add_special_tokens": False,
    "continue_final_message": False,
}


class Tokens:
    """The model may be left out: there is one."""

    def __init__(self, served: Served, access: Access) -> None:
        self._served, self._access = served, access

    async def tokenize(self, request: HttpRequest) -> Response:
        body = await self._read(request)
        # long texts take a second, in which others want their tokens
        return JSONResponse(await asyncio.to_thread(not_too_deep, self._tokenized, body))

    async def detokenize(self, request: HttpRequest) -> Response:
        body = await self._read(request)
        token_ids: Any = body.get("tokens")
        if token_ids != [] and not is_token_ids(token_ids):
            raise invalid("tokens", token_ids, "a list of token ids")
        prompts.check_token_ids(token_ids, self._served.vocabulary_tokens, "tokens")
        text = await asyncio.to_thread(self._served.tokenizer.decode, token_ids)
        return JSONResponse({"prompt": text})

    async def _read(self, request: HttpRequest) -> dict[str, Any]:
        self._access.check(request)
        body = parse_object(await read_body(request, self._access.max_body_bytes))
        if body.get("model") is not None:
            check_model(str(body["model"]), self._served.name)
        return body

    def _tokenized(self, body: Mapping[str, Any]) -> dict[str, Any]:
        token_ids = list(self._chat(body) if "messages" in body else self._prompt(body))
        texts = None
        if fields.flag(body, "return_token_strs"):
            decode = self._served.tokenizer.decode
            spelt = {each: decode([each]) for each in set(token_ids)}  # a long text repeats them
            texts = [spelt[each] for each in token_ids]
        return {
            "count": len(token_ids),
            "max_model_len": self._served.context_tokens,
            "tokens": token_ids,
            "token_strs": texts,
        }

    def _prompt(self, body: Mapping[str, Any]) -> list[int]:
        for name, value in body.items():
            if name not in _TOKENIZE:
                raise unsupported(name, value, "leave it out")
        text = body.get("prompt")
        if not isinstance(text, str):
            raise invalid("prompt", text, "a text; or send messages")
        special = fields.flag(body, "add_special_tokens", default=True)
        return self._served.tokenizer.encode(text, add_special_tokens=special)

    def _chat(self, body: Mapping[str, Any]) -> list[int]:
        """As many as the same messages have in a request for an answer."""
        for name, value in body.items():
            if name not in _CHAT and value not in (None, _ONLY.get(name)):
                raise unsupported(name, value, "leave it out")
        asked = {name: value for name, value in body.items() if name in _CHAT}
        asked |= {"model": self._served.name}
        asked.pop("return_token_strs", None)
        return list(prompts.encode_chat(read_chat(asked), self._served))


__all__ = ["Tokens"]
