"""Answers in the shape of /v1/responses: items of output, and a stream of named events about them.

response.created, response.in_progress
response.output_item.added                  a message, or a call of a function; then one of
    response.content_part.added, response.output_text.delta …, response.output_text.done, response.content_part.done
    response.function_call_arguments.delta …, response.function_call_arguments.done
response.output_item.done
response.completed, or response.incomplete, or response.failed
"""

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from serving.engine.request import FinishReason, TokenLogprob
from serving.server.answers import Answer, Answering, Json, Part, Usage, named_event
from serving.server.chat_answers import logprob_entry
from serving.server.errors import ApiError
from serving.tools.reader import CallPart

# What a response says again of its request, and what it says where the request had nothing.
_ECHOED: Mapping[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "user": None,
}
_TIERS = {"flex": "flex", "batch": "flex"}


class ResponseWriter:
    """One answer; body is the request's."""

    def __init__(self, answering: Answering, body: Mapping[str, Any]) -> None:
        self._answering = answering
        self._echo = {
            name: default if body.get(name) is None else body[name]
            for name, default in _ECHOED.items()
        }
        self._answer = Answer(0)
        self._done: list[Json] = []  # items of output
        self._message: Json | None = None  # the item that is open
        self._call: Json | None = None
        self._texts: list[str] = []
        self._logprobs: list[Json] = []
        self._early: list[TokenLogprob] = []  # of tokens before the first text, or before a call
        self._events = 0

    # As a whole

    def whole(self, answers: Sequence[Answer], used: Usage) -> Json:
        answer = answers[0]
        output = []
        if answer.text or not answer.calls:
            output.append(self._message_item(answer.text, answer.logprobs))
        output += [
            _call_item(each.id, each.name, each.arguments, "completed") for each in answer.calls
        ]
        return self._ended(answer.reason, output, used)

    def _message_item(self, text: str, logprobs: Sequence[TokenLogprob]) -> Json:
        part = _text_part(text, self._entries(logprobs))
        return _message_item(_new_id("msg"), [part], "completed")

    def _entries(self, logprobs: Sequence[TokenLogprob]) -> list[Json]:
        return [logprob_entry(self._answering, each) for each in logprobs]

    def _ended(self, reason: FinishReason | None, output: list[Json], used: Usage) -> Json:
        is_cut = reason is FinishReason.LENGTH
        if is_cut and output:
            output[-1]["status"] = "incomplete"
        return self._response(
            "incomplete" if is_cut else "completed",
            output,
            incomplete_details={"reason": "max_output_tokens"} if is_cut else None,
            completed_at=None if is_cut else int(time.time()),
            usage={
                "input_tokens": used.prompt_tokens,
                "input_tokens_details": {
                    "cached_tokens": used.cached_tokens,
                    "cache_write_tokens": 0,
                },
                "output_tokens": used.output_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": used.prompt_tokens + used.output_tokens,
            },
        )

    def _response(self, status: str, output: list[Json], **more: Any) -> Json:
        tier = self._answering.service_tier
        return {
            "id": self._answering.id,
            "object": "response",
            "created_at": self._answering.created_unix_seconds,
            "model": self._answering.model,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "usage": None,
            **self._echo,
            "background": False,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "service_tier": _TIERS.get(tier, "default"),
            "store": False,
            "truncation": "disabled",
            "output": output,
            **more,
        }

    # As a stream

    def begin(self) -> bytes:
        response = self._response("in_progress", [])
        return self._event("created", response=response) + self._event(
            "in_progress", response=response
        )

    def part(self, part: Part) -> bytes:
        self._answer.add(part)
        return b"".join(self._part_events(part))

    def _part_events(self, part: Part) -> Iterator[bytes]:
        if part.text or (part.logprobs and self._message is not None):
            yield from self._text_events(part)
        elif self._call is None:
            self._early += part.logprobs
        for each in part.calls:
            yield from self._call_events(each)

    def _text_events(self, part: Part) -> Iterator[bytes]:
        if self._message is None:
            yield from self._close()
            yield from self._open_message()
        entries = self._entries([*self._early, *part.logprobs])
        self._early = []
        self._texts.append(part.text)
        self._logprobs += entries
        yield self._event(
            "output_text.delta", **self._place(), content_index=0, delta=part.text, logprobs=entries
        )

    def _open_message(self) -> Iterator[bytes]:
        self._message = _message_item(_new_id("msg"), [], "in_progress")
        self._texts, self._logprobs = [], []
        yield self._event("output_item.added", output_index=len(self._done), item=self._message)
        yield self._event(
            "content_part.added", **self._place(), content_index=0, part=_text_part("", [])
        )

    def _call_events(self, part: CallPart) -> Iterator[bytes]:
        if part.begins:
            yield from self._close()
            self._early = []
            self._call = _call_item(part.id, part.name, "", "in_progress")
            yield self._event("output_item.added", output_index=len(self._done), item=self._call)
        if part.arguments:
            assert self._call is not None
            self._call = {**self._call, "arguments": self._call["arguments"] + part.arguments}
            yield self._event(
                "function_call_arguments.delta", **self._place(), delta=part.arguments
            )

    def _close(self) -> Iterator[bytes]:
        """End the item that is open."""
        if self._message is not None:
            yield from self._close_message(self._message)
        elif self._call is not None:
            yield from self._close_call(self._call)

    def _close_message(self, message: Json) -> Iterator[bytes]:
        text = "".join(self._texts)
        part = _text_part(text, self._logprobs)
        place = {**self._place(), "content_index": 0}
        yield self._event("output_text.done", **place, text=text, logprobs=self._logprobs)
        yield self._event("content_part.done", **place, part=part)
        yield self._item_done({**message, "content": [part]})
        self._message = None

    def _close_call(self, call: Json) -> Iterator[bytes]:
        yield self._event(
            "function_call_arguments.done",
            **self._place(),
            name=call["name"],
            arguments=call["arguments"],
        )
        yield self._item_done(call)
        self._call = None

    def _item_done(self, item: Json) -> bytes:
        is_cut = self._answer.reason is FinishReason.LENGTH
        item = {**item, "status": "incomplete" if is_cut else "completed"}
        event = self._event("output_item.done", output_index=len(self._done), item=item)
        self._done.append(item)
        return event

    def end(self, used: Usage) -> bytes:
        events = list(self._last_events())
        response = self._ended(self._answer.reason, self._done, used)
        return b"".join([*events, self._event(response["status"], response=response)])

    def _last_events(self) -> Iterator[bytes]:
        if self._message is None and self._call is None and not self._done:
            yield from self._open_message()  # an answer without a word is still one
            self._logprobs = self._entries(self._early)
        yield from self._close()

    def failure(self, error: ApiError) -> bytes:
        said = {"code": "server_error", "message": error.message}
        return self._event("failed", response=self._response("failed", self._done, error=said))

    def _place(self) -> Json:
        item = self._message or self._call
        assert item is not None
        return {"item_id": item["id"], "output_index": len(self._done)}

    def _event(self, kind: str, /, **more: Any) -> bytes:
        event = {"type": f"response.{kind}", "sequence_number": self._events, **more}
        self._events += 1
        return named_event(event)


def _message_item(item_id: str, content: list[Json], status: str) -> Json:
    return {
        "id": item_id,
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": content,
    }


def _text_part(text: str, logprobs: list[Json]) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def _call_item(call_id: str, name: str, arguments: str, status: str) -> Json:
    return {
        "id": _new_id("fc"),
        "type": "function_call",
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
        "status": status,
    }


def _new_id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex}"


__all__ = ["ResponseWriter"]
