"""Answers in the shape of /v1/completions."""

from collections import defaultdict
from collections.abc import Sequence

from serving.engine.request import FinishReason, TokenLogprob
from serving.server.answers import Answer, Answering, Chunks, Json, Part, Usage, token_text


class CompletionWriter(Chunks):
    def __init__(self, answering: Answering) -> None:
        super().__init__(answering, "text_completion", self._delta)
        self._answering = answering
        self._written: dict[int, int] = defaultdict(int)  # characters of each answer so far

    def whole(self, answers: Sequence[Answer], used: Usage) -> Json:
        return {
            **self._answering.envelope("text_completion"),
            "choices": [
                self._choice_of(each.index, each.text, each.logprobs, each.reason)
                for each in answers
            ],
            "usage": used.for_completions(),
        }

    def _delta(self, part: Part) -> Json:
        return self._choice_of(part.index, part.text, part.logprobs, part.reason)

    def _choice_of(
        self,
        index: int,
        text: str,
        logprobs: Sequence[TokenLogprob],
        reason: FinishReason | None,
    ) -> Json:
        return {
            "index": index,
            "text": text,
            "logprobs": self._logprobs(index, logprobs) if logprobs else None,
            "finish_reason": None if reason is None else str(reason),
        }

    def _logprobs(self, index: int, logprobs: Sequence[TokenLogprob]) -> Json:
        """Lists of equal length, one entry a token; text_offset is where the token begins in the answer."""
        texts = [self._text(each.token_id) for each in logprobs]
        offsets = []
        for text in texts:
            offsets.append(self._written[index])
            self._written[index] += len(text)
        return {
            "tokens": texts,
            "token_logprobs": [each.logprob for each in logprobs],
            "top_logprobs": [self._top(each) for each in logprobs],
            "text_offset": offsets,
        }

    def _top(self, chosen: TokenLogprob) -> dict[str, float]:
        """By text, the chosen token among them; of tokens with one text the most probable counts."""
        by_text: dict[str, float] = {}
        for token_id, logprob in (*chosen.top, (chosen.token_id, chosen.logprob)):
            by_text.setdefault(self._text(token_id), logprob)
        return by_text

    def _text(self, token_id: int) -> str:
        return token_text(self._answering.decode, token_id)[0]


__all__ = ["CompletionWriter"]
