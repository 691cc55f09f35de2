"""OpenAI's parameters, and vLLM's beside them: which we read, which change nothing, and which we have to refuse.

A parameter that would change the answer and that we do not honour is refused by name: an answer that silently
ignores what was asked is worse than none.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from serving.engine.request import Constraint, Objective, SamplingParams
from serving.server import fields, formats
from serving.server.errors import BadRequest, invalid, unsupported

# Bookkeeping of the caller, or of a provider with more machinery than ours: the answer is the same without.
HARMLESS = frozenset(
    {
        "metadata",
        "moderation",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "store",
        "user",
    }
)

# What a client may send because it is the default. Null is always the default.
ONLY_DEFAULT: Mapping[str, tuple[Any, ...]] = {
    "audio": (),
    "echo": (False,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "include_stop_str_in_output": (False,),
    "length_penalty": (1,),
    "min_tokens": (0,),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),  # without tools there are no calls
    "reasoning_effort": ("none",),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "use_beam_search": (False,),
    "verbosity": ("medium",),
}

SAMPLING = frozenset(
    {
        "frequency_penalty",
        "ignore_eos",
        "logit_bias",
        "min_p",
        "presence_penalty",
        "repetition_penalty",
        "seed",
        "stop",
        "stop_token_ids",
        "temperature",
        "top_k",
        "top_p",
    }
)
ANSWERING = frozenset({"model", "priority", "service_tier", "stream", "stream_options"})
GENERATION = SAMPLING | ANSWERING | formats.NAMES | {"best_of", "max_tokens", "n"}

# OpenAI's tiers by when the answer is wanted; "batch" is what its batch interface runs under.
_TIERS: Mapping[str, Objective] = {
    "auto": Objective.INTERACTIVE,
    "default": Objective.INTERACTIVE,
    "fast": Objective.INTERACTIVE,
    "priority": Objective.INTERACTIVE,
    "scale": Objective.INTERACTIVE,
    "flex": Objective.BATCH,
    "batch": Objective.BATCH,
}
UNLIMITED_TOKENS = 2**31  # as many as the context has room for
_MAX_STOPS = 16
_MAX_STOP_CHARACTERS = 1_000
_MAX_ANSWERS = 128
_MAX_BIASED_TOKENS = 1_024
_MAX_TOKEN_ID = 2**31
_MAX_PRIORITY = 2**31
_MAX_SEED = 2**63 - 1 - _MAX_ANSWERS  # each answer of a request has a seed of its own
MAX_TOP_LOGPROBS = 20


class Options(Protocol):
    """What the span of any request tells about how it was asked; None: it has no such thing."""

    @property
    def stream(self) -> bool: ...
    @property
    def max_tokens(self) -> int | None: ...
    @property
    def temperature(self) -> float | None: ...
    @property
    def top_p(self) -> float | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationOptions:
    """How to sample and how to answer.

    sampling       max_tokens is UNLIMITED_TOKENS where the request names no limit
    answers        how many to give to each prompt
    service_tier   as the request had it; empty: it said nothing
    """

    sampling: SamplingParams
    answers: int = 1
    stream: bool = False
    include_usage: bool = False
    objective: Objective = Objective.INTERACTIVE
    priority: int = 0
    service_tier: str = ""

    @property
    def max_tokens(self) -> int | None:
        asked = self.sampling.max_tokens
        return None if asked == UNLIMITED_TOKENS else asked

    @property
    def temperature(self) -> float | None:
        return self.sampling.temperature

    @property
    def top_p(self) -> float | None:
        return self.sampling.top_p

    def sampling_of(self, answer: int, room_tokens: int) -> SamplingParams:
        """How to sample the answer with this number, where the context has this much room."""
        seed = self.sampling.seed
        return replace(
            self.sampling,
            max_tokens=min(self.sampling.max_tokens, room_tokens),
            seed=None if seed is None else seed + answer,
        )


def refuse_what_we_do_not_honour(body: Mapping[str, Any], read: frozenset[str]) -> None:
    """Raise BadRequest naming the first parameter that would change the answer.

    read   what this endpoint reads.
    """
    for name, value in body.items():
        if name in read or name in HARMLESS or value is None:
            continue
        if name not in ONLY_DEFAULT or not _is_default(value, ONLY_DEFAULT[name]):
            raise unsupported(name, value, "leave it out")


def _is_default(value: Any, defaults: tuple[Any, ...]) -> bool:
    # False == 0 in Python, and not in JSON
    return any(
        value == default and isinstance(value, bool) == isinstance(default, bool)
        for default in defaults
    )


def read_options(
    body: Mapping[str, Any],
    *,
    max_tokens_name: str,
    max_tokens: int = UNLIMITED_TOKENS,
    logprobs: int | None = None,
    constraint: Constraint | None = None,
) -> GenerationOptions:
    """The options of a request.

    max_tokens, logprobs, constraint   what counts where the body's field max_tokens_name says nothing, and what the
                                       endpoint has read itself

    Raises BadRequest.
    """
    stream = fields.flag(body, "stream")
    tier = _read_tier(body.get("service_tier"))
    asked = fields.whole(body, max_tokens_name, at_least=1, at_most=UNLIMITED_TOKENS)
    return GenerationOptions(
        sampling=_read_sampling(body, asked or max_tokens, logprobs, constraint),
        answers=_read_answers(body),
        stream=stream,
        include_usage=_read_include_usage(body.get("stream_options"), stream=stream),
        objective=_TIERS.get(tier, Objective.INTERACTIVE),
        priority=fields.whole(body, "priority", at_least=-_MAX_PRIORITY, at_most=_MAX_PRIORITY)
        or 0,
        service_tier=tier,
    )


def _read_sampling(
    body: Mapping[str, Any], max_tokens: int, logprobs: int | None, constraint: Constraint | None
) -> SamplingParams:
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=fields.number(body, "temperature", 1.0, at_most=2),
        top_p=fields.number(body, "top_p", 1.0, at_most=1, above=True),
        # -1: vLLM's "all"
        top_k=max(fields.whole(body, "top_k", at_least=-1, at_most=2**31) or 0, 0),
        min_p=fields.number(body, "min_p", 0.0, at_most=1),
        seed=fields.whole(body, "seed", at_least=-_MAX_SEED, at_most=_MAX_SEED),
        presence_penalty=fields.number(body, "presence_penalty", 0.0, at_least=-2, at_most=2),
        frequency_penalty=fields.number(body, "frequency_penalty", 0.0, at_least=-2, at_most=2),
        repetition_penalty=fields.number(body, "repetition_penalty", 1.0, at_most=100, above=True),
        logit_bias=_read_bias(body.get("logit_bias")),
        logprobs=logprobs,
        constraint=constraint,
        stop=_read_stop(body.get("stop")),
        stop_token_ids=_read_stop_tokens(body.get("stop_token_ids")),
        ignore_eos=fields.flag(body, "ignore_eos"),
    )


def _read_answers(body: Mapping[str, Any]) -> int:
    answers = fields.whole(body, "n", at_least=1, at_most=_MAX_ANSWERS) or 1
    best_of = fields.whole(body, "best_of", at_least=1, at_most=_MAX_ANSWERS)
    if best_of not in (None, answers):
        raise unsupported("best_of", best_of, "ask for n answers and choose among them")
    return answers


def _read_tier(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or value not in _TIERS:
        raise invalid("service_tier", value, f"one of {', '.join(_TIERS)}")
    return value


def _read_bias(value: Any) -> tuple[tuple[int, float], ...]:
    """[(token id, what its logit gets)], by token id."""
    if value is None:
        return ()
    said = fields.mapping(value, "logit_bias", 'an object such as {"50256": -100}')
    if len(said) > _MAX_BIASED_TOKENS:
        raise invalid("logit_bias", value, f"at most {_MAX_BIASED_TOKENS} tokens")
    return tuple(sorted((_token_id(key), _bias(key, each)) for key, each in said.items()))


def _token_id(key: str) -> int:
    is_whole = key.isascii() and key.isdecimal() and len(key) <= len(str(_MAX_TOKEN_ID))
    if not is_whole or str(int(key)) != key:
        raise invalid("logit_bias", key, "token ids as names")
    return int(key)


def _bias(key: str, value: Any) -> float:
    if not fields.is_number(value) or not -100 <= value <= 100:
        raise invalid(f"logit_bias.{key}", value, "a number from -100 to 100")
    return float(value)


def _read_stop(value: Any) -> tuple[str, ...]:
    stops = fields.items(
        [value] if isinstance(value, str) else value,
        "stop",
        "a text or a list of texts",
        at_most=_MAX_STOPS,
    )
    if not all(isinstance(stop, str) and 0 < len(stop) <= _MAX_STOP_CHARACTERS for stop in stops):
        raise invalid(
            "stop", value, f"texts that are not empty, of at most {_MAX_STOP_CHARACTERS} characters"
        )
    return tuple(stops)


def _read_stop_tokens(value: Any) -> tuple[int, ...]:
    token_ids = fields.items(value, "stop_token_ids", "a list of token ids", at_most=1_024)
    if not all(fields.is_whole(each) and 0 <= each < _MAX_TOKEN_ID for each in token_ids):
        raise invalid("stop_token_ids", value, "a list of token ids")
    return tuple(token_ids)


def _read_include_usage(value: Any, *, stream: bool) -> bool:
    if value is None:
        return False
    said = fields.mapping(value, "stream_options", 'an object such as {"include_usage": true}')
    if not stream:
        raise BadRequest(
            "stream_options: only allowed when stream is true",
            code="invalid_value",
            param="stream_options",
        )
    return fields.flag(said, "include_usage", where="stream_options.")


__all__ = [
    "ANSWERING",
    "GENERATION",
    "HARMLESS",
    "MAX_TOP_LOGPROBS",
    "ONLY_DEFAULT",
    "SAMPLING",
    "UNLIMITED_TOKENS",
    "GenerationOptions",
    "Options",
    "read_options",
    "refuse_what_we_do_not_honour",
]
