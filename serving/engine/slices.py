"""A request on its way, and what it computes in one step.

A step may be planned while the one before it is still on the device: then a request's newest token is not known yet,
and its slice says COMING in its place. No torch here.

    RequestState   a request and how far it is
    Slice          what one request computes in one step
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from serving.engine.request import Request, SamplingParams

COMING = -1  # the token that the step before this one is choosing
DRAFT = -2  # a token that the device's own draft model proposes


@dataclass(slots=True, eq=False)
class RequestState:
    """A request on its way. Of its tokens (prompt, then answer) the first computed_tokens are in the KV cache, or will be
    once the steps under way are done.

    names            of the prompt's and answer's whole blocks, as far as they were wanted
    coming_tokens    tokens that steps under way will choose: none or one
    steps            steps under way that it is part of
    leaving          it gets no further step, and waits only for those under way
    known_tokens     tokens whose keys and values were computed once already
    drafting         its answer may have drafts; one with a constraint has none, whose mask is known a token at a time
    """

    request: Request
    seed: int
    most_tokens: int  # prompt and answer together
    arrival: int = 0  # place in the order of arrival
    token_ids: list[int] = field(init=False)
    names: list[bytes] = field(default_factory=list)
    computed_tokens: int = 0
    coming_tokens: int = 0
    steps: int = 0
    leaving: bool = False
    known_tokens: int = 0
    cached_tokens: int | None = None
    preemptions: int = 0
    drafting: bool = False

    def __post_init__(self) -> None:
        self.token_ids = list(self.request.prompt_token_ids)

    @property
    def request_id(self) -> str:
        return self.request.request_id

    @property
    def prompt_tokens(self) -> int:
        return len(self.request.prompt_token_ids)

    @property
    def output_tokens(self) -> int:
        return len(self.token_ids) - self.prompt_tokens

    @property
    def is_answering(self) -> bool:
        """Whether only its newest token is missing in the KV cache."""
        return self.computed_tokens >= max(self.prompt_tokens, self._tokens - 1)

    @property
    def missing_tokens(self) -> int:
        """Tokens whose keys and values the next step may compute; one while it answers."""
        if self.leaving or (self.coming_tokens and self._must_be_settled):
            return 0
        return self._tokens - self.computed_tokens

    @property
    def _tokens(self) -> int:
        return len(self.token_ids) + self.coming_tokens

    @property
    def _must_be_settled(self) -> bool:
        """Whether nothing can be planned for it before its newest token is known."""
        return (
            self._tokens >= self.most_tokens or self.drafting or self.request.sampling.needs_history
        )


@dataclass(frozen=True, slots=True)
class Slice:
    """What one request computes in one step: token_ids at positions start, start + 1, ….

    block_table      KV blocks of the request, enough for start + len(token_ids) tokens.
    samples          True where these are its last tokens, so that the next one is chosen.
    is_decode        True for the token that an answer under way adds, and drafts behind it.
    drafts           how many of token_ids, at the end, are proposals: after each the next one is chosen too.
    position         of the (first) token to be chosen in the answer, from 0; with seed it fixes the dice.
    history          prompt and answer so far; only where sampling.needs_history.
    repeated_tokens  how many of token_ids were computed before, and lost.
    mask             what a constraint allows; whoever computes knows its type.
    """

    request_id: str
    token_ids: Sequence[int]
    start: int
    block_table: Sequence[int]
    samples: bool
    is_decode: bool
    sampling: SamplingParams
    seed: int
    position: int
    drafts: int = 0
    history: Sequence[int] = ()
    prompt_tokens: int = 0
    repeated_tokens: int = 0
    mask: object = None

    @property
    def end(self) -> int:
        return self.start + len(self.token_ids)

    @property
    def context_tokens(self) -> int:
        """Keys that attention reads: token at position p looks at p + 1."""
        return len(self.token_ids) * (self.start + self.end + 1) // 2
