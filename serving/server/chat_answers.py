"""Answers in the shape of /v1/chat/completions."""

from collections.abc import Sequence

from serving.engine.request import FinishReason, TokenLogprob
from serving.server.answers import Answer, Answering, Chunks, Json, Part, Usage, token_text
from serving.tools.reader import CallPart


class ChatWriter(Chunks):
    def __init__(self, answering: Answering) -> None:
        super().__init__(answering, "chat.completion.chunk", self._delta)
        self._answering = answering
        self._begun: set[int] = set()
        self._called: set[int] = set()

    def whole(self, answers: Sequence[Answer], used: Usage) -> Json:
        return {
            **self._answering.envelope("chat.completion"),
            "choices": [self._whole_choice(each) for each in answers],
            "usage": used.for_completions(),
        }

    def _whole_choice(self, answer: Answer) -> Json:
        calls = [
            {
                "id": each.id,
                "type": "function",
                "function": {"name": each.name, "arguments": each.arguments},
            }
            for each in answer.calls
        ]
        message = {
            "role": "assistant",
            "content": None if calls and not answer.text else answer.text,
            "refusal": None,
            **({"tool_calls": calls} if calls else {}),
        }
        return {
            "index": answer.index,
            "message": message,
            "logprobs": self._logprobs(answer.logprobs),
            "finish_reason": _finish_reason(answer.reason, called=bool(calls)),
        }

    def _delta(self, part: Part) -> Json:
        delta: Json = {} if part.index in self._begun else {"role": "assistant"}
        self._begun.add(part.index)
        if part.calls:
            self._called.add(part.index)
            delta["tool_calls"] = [_call_delta(each) for each in part.calls]
        if part.text or not part.calls:
            delta["content"] = part.text
        return {
            "index": part.index,
            "delta": delta,
            "logprobs": self._logprobs(part.logprobs),
            "finish_reason": _finish_reason(part.reason, called=part.index in self._called),
        }

    def _logprobs(self, logprobs: Sequence[TokenLogprob]) -> Json | None:
        if not logprobs:
            return None
        return {
            "content": [logprob_entry(self._answering, each) for each in logprobs],
            "refusal": None,
        }


def logprob_entry(answering: Answering, chosen: TokenLogprob) -> Json:
    """A token with the most probable ones in its place, as chat completions and responses have it."""
    return {
        **_token(answering, chosen.token_id, chosen.logprob),
        "top_logprobs": [_token(answering, *each) for each in chosen.top],
    }


def _token(answering: Answering, token_id: int, logprob: float) -> Json:
    text, its_bytes = token_text(answering.decode, token_id)
    return {"token": text, "logprob": logprob, "bytes": its_bytes}


def _call_delta(part: CallPart) -> Json:
    if not part.begins:
        return {"index": part.index, "function": {"arguments": part.arguments}}
    return {
        "index": part.index,
        "id": part.id,
        "type": "function",
        "function": {"name": part.name, "arguments": part.arguments},
    }


def _finish_reason(reason: FinishReason | None, *, called: bool) -> str | None:
    if reason is FinishReason.STOP and called:
        return "tool_calls"
    return None if reason is None else str(reason)


__all__ = ["ChatWriter", "logprob_entry"]
