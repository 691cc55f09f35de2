"""What is asked, and by which rate it is judged. Higher rates are better, and all are tokens per second."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.serve.parties import Ask, Took
from serving.weights import Tokenizer

_TEXT = (
    "the cost of a team is what it asks for and how long an answer should be when people read along "
    "while machines work at night on files that nobody waits for so prices may fall by half again"
)
_WORDS = _TEXT.split()


@dataclass(frozen=True, slots=True)
class Work:
    """Requests that come at once, each with its own prompt behind shared_tokens that all begin with.

    rate    from the whole ask and what it took to tokens per second.
    """

    name: str
    requests: int
    prompt_tokens: int
    answer_tokens: int
    rate: Callable[["Work", Took], float]
    shared_tokens: int = 0

    def ask(self, tokens: Tokenizer, seed: str) -> Ask:
        """Prompts that nobody has seen before, the same for the same seed."""
        dice = random.Random(f"{seed} {self.name}")
        shared = _token_ids(tokens, dice, self.shared_tokens)
        own = self.prompt_tokens - self.shared_tokens
        prompts = [shared + _token_ids(tokens, dice, own) for _ in range(self.requests)]
        return Ask(prompts, [tokens.decode(prompt) for prompt in prompts], self.answer_tokens)


def decode_rate(_: Work, took: Took) -> float:
    """Of the tokens after the first, which is the prompt's work."""
    return (took.tokens - 1) / (took.all_seconds - took.first_seconds)


def answer_rate(_: Work, took: Took) -> float:
    return took.tokens / took.all_seconds


def prompt_rate(work: Work, took: Took) -> float:
    """Of all prompts' tokens, computed or found, until the last request had its first token."""
    return work.requests * work.prompt_tokens / took.first_seconds


@dataclass(frozen=True, slots=True)
class Way:
    """A party that does a work. engine: how, in a worker that can do it in several ways."""

    work: Work
    party: str
    engine: Mapping[str, Any] = field(default_factory=dict)

    @property
    def setting(self) -> str:
        which = ", ".join(f"{name} {value}" for name, value in self.engine.items())
        return self.party + (f" ({which})" if which else "")

    @property
    def name(self) -> str:
        return f"{self.work.name} by {self.setting}"

    def ask(self, tokens: Tokenizer, seed: str, answer_part: float = 1.0) -> Ask:
        asked = self.work.ask(tokens, seed)
        # two at least where there are two: one has no time between tokens
        least = min(2, self.work.answer_tokens)
        answer_tokens = max(least, round(self.work.answer_tokens * answer_part))
        return replace(asked, answer_tokens=answer_tokens, engine=self.engine)


def _token_ids(tokens: Tokenizer, dice: random.Random, wanted: int) -> list[int]:
    words: list[str] = []
    while len(found := tokens.encode("".join(f" {word}" for word in words))) < wanted:
        words += dice.choices(_WORDS, k=max(8, wanted - len(found)))
    return found[:wanted]
