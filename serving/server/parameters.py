"""OpenAI's parameters: which we read, which change nothing, and which we have to refuse.

A parameter that would change the answer and that we do not honour is refused by name: an answer that silently
ignores what was asked is worse than none.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serving.server.errors import BadRequest, invalid, unsupported

# Bookkeeping of the caller, or of a provider with more machinery than ours: the answer is the same without.
HARMLESS = frozenset(
    {
        "metadata",
        "moderation",
        "parallel_tool_calls",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)

# What a client may send because it is the default. Null is always the default.
ONLY_DEFAULT: Mapping[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "min_p": (0,),
    "modalities": (["text"],),
    "n": (1,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "response_format": ({"type": "text"},),
    "stop_token_ids": ([],),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
}

_READ = frozenset(
    {
        "ignore_eos",
        "max_tokens",
        "model",
        "seed",
        "stop",
        "stream",
        "stream_options",
        "temperature",
        "top_k",
        "top_p",
    }
)
_MAX_STOPS = 16
_MAX_SEED = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Options:
    """How to sample and how to answer. max_tokens None: as many as the context has room for."""

    max_tokens: int | None
    temperature: float
    top_p: float
    top_k: int
    seed: int | None
    stop: tuple[str, ...]
    ignore_eos: bool
    stream: bool
    include_usage: bool


def refuse_what_we_do_not_honour(body: Mapping[str, Any], own: frozenset[str]) -> None:
    """Raise BadRequest naming the first parameter that would change the answer.

    own   what this endpoint reads besides what all read.
    """
    for name, value in body.items():
        if name in _READ or name in own or name in HARMLESS or value is None:
            continue
        if name not in ONLY_DEFAULT:
            raise unsupported(name, value, "leave it out")
        if not _is_default(value, ONLY_DEFAULT[name]):
            raise unsupported(name, value, _instead(name))


def _is_default(value: Any, defaults: tuple[Any, ...]) -> bool:
    # False == 0 in Python; logprobs=0 is a wish (the chosen token's own), logprobs=False is none
    return any(
        value == default and isinstance(value, bool) == isinstance(default, bool)
        for default in defaults
    )


def _instead(name: str) -> str:
    if name in ("n", "best_of"):
        return "send one request for each answer"
    return "leave it out"


def read_options(
    body: Mapping[str, Any], *, max_tokens_name: str, max_tokens: int | None
) -> Options:
    """The options of a request; max_tokens is what counts where the request says nothing.

    Raises BadRequest.
    """
    stream = _flag(body, "stream")
    return Options(
        max_tokens=_whole(body, max_tokens_name, max_tokens, at_least=1, at_most=2**31),
        temperature=_number(body, "temperature", 1.0, at_most=2.0, above_zero=False),
        top_p=_number(body, "top_p", 1.0, at_most=1.0, above_zero=True),
        top_k=max(_whole(body, "top_k", 0, at_least=-1, at_most=2**31) or 0, 0),  # -1: vLLM's "all"
        seed=_whole(body, "seed", None, at_least=-_MAX_SEED, at_most=_MAX_SEED),
        stop=_read_stop(body.get("stop")),
        ignore_eos=_flag(body, "ignore_eos"),
        stream=stream,
        include_usage=_read_include_usage(body.get("stream_options"), stream=stream),
    )


def _whole(
    body: Mapping[str, Any], name: str, default: int | None, *, at_least: int, at_most: int
) -> int | None:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not at_least <= value <= at_most:
        raise invalid(name, value, f"a whole number of at least {at_least}")
    return value


def _number(
    body: Mapping[str, Any], name: str, default: float, *, at_most: float, above_zero: bool
) -> float:
    value = body.get(name)
    if value is None:
        return default
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # NaN compares false with everything, so it has to pass a comparison to be taken
    if not is_number or not 0 <= value <= at_most or (above_zero and value == 0):
        begin = "above 0" if above_zero else "from 0"
        raise invalid(name, value, f"a number {begin} to {at_most:g}")
    return float(value)


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise invalid(name, value, "true or false")
    return value


def _read_stop(value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value or []
    if not isinstance(stops, list) or len(stops) > _MAX_STOPS:
        raise invalid("stop", value, f"a text or a list of at most {_MAX_STOPS} texts")
    if not all(isinstance(stop, str) and stop for stop in stops):
        raise invalid("stop", value, "texts that are not empty")
    return tuple(stops)


def _read_include_usage(value: Any, *, stream: bool) -> bool:
    if value is None:
        return False
    if not isinstance(value, dict):
        raise invalid("stream_options", value, 'an object such as {"include_usage": true}')
    if not stream:
        raise BadRequest(
            "stream_options: only allowed when stream is true",
            code="invalid_value",
            param="stream_options",
        )
    return _flag(value, "include_usage")
