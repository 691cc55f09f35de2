"""What a request must be, so that it can be served."""

from collections.abc import Sequence
from dataclasses import dataclass

from serving.engine.request import Request, RequestRefused, SamplingParams

_MOST_LOGPROBS = 20


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may ask for. context_tokens counts prompt and answer."""

    context_tokens: int
    vocab_size: int


def check(request: Request, limits: Limits) -> None:
    """Raise RequestRefused with what was found and what would do."""
    _check_sampling(request.sampling, limits)
    _check_prompt(request.prompt_token_ids, limits)


def _check_prompt(token_ids: Sequence[int], limits: Limits) -> None:
    if not token_ids:
        raise RequestRefused("the prompt is empty; send at least one token")
    limit = limits.context_tokens
    if len(token_ids) >= limit:
        raise RequestRefused(
            f"the prompt has {len(token_ids)} tokens; prompt and answer have room for {limit} "
            f"together: send at most {limit - 1}"
        )
    _check_vocabulary("the prompt", token_ids, limits)


def _check_vocabulary(what: str, token_ids: Sequence[int], limits: Limits) -> None:
    if token_ids and (min(token_ids) < 0 or max(token_ids) >= limits.vocab_size):
        raise RequestRefused(
            f"{what} has token ids from {min(token_ids)} to {max(token_ids)}; "
            f"the model knows 0 to {limits.vocab_size - 1}"
        )


def _check_sampling(sampling: SamplingParams, limits: Limits) -> None:
    wrong = [
        f"{name}={getattr(sampling, name)}: expected {wanted}"
        for name, wanted, fits in (
            ("max_tokens", "at least 1", sampling.max_tokens >= 1),
            ("temperature", "0 or more", sampling.temperature >= 0),
            ("top_p", "above 0 and at most 1", 0 < sampling.top_p <= 1),
            ("top_k", "0 (all) or more", sampling.top_k >= 0),
            ("min_p", "0 to 1", 0 <= sampling.min_p <= 1),
            ("presence_penalty", "-2 to 2", -2 <= sampling.presence_penalty <= 2),
            ("frequency_penalty", "-2 to 2", -2 <= sampling.frequency_penalty <= 2),
            ("repetition_penalty", "above 0", sampling.repetition_penalty > 0),
            ("logprobs", f"0 to {_MOST_LOGPROBS}", 0 <= (sampling.logprobs or 0) <= _MOST_LOGPROBS),
            ("stop", "texts that are not empty", all(sampling.stop)),
        )
        if not fits
    ]
    if wrong:
        raise RequestRefused("; ".join(wrong))
    _check_vocabulary("logit_bias", [token_id for token_id, _ in sampling.logit_bias], limits)
