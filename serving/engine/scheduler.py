"""Which requests compute how many tokens in the next step.

First come, first served. Answers under way go before prompts, since somebody reads along; prompts are cut into
chunks so that a step stays within its budget of tokens. When the KV cache is full, the youngest request gives
its blocks back and computes its tokens again later. No torch here.

    RequestState   a request and how far it is
    Slice          what one request computes in one step
    Scheduler      add, cancel, plan, advance, finish
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from serving.engine.kv_cache import BlockPool
from serving.engine.request import EngineOverloaded, Request, SamplingParams


@dataclass(slots=True, eq=False)
class RequestState:
    """A request on its way. Of token_ids (prompt, then answer) the first computed_tokens are in the KV cache."""

    request: Request
    seed: int
    token_ids: list[int] = field(init=False)
    computed_tokens: int = 0
    scheduled_ns: int | None = None
    first_token_ns: int | None = None
    device_ns: int = 0
    device_ns_marginal: int = 0
    device_ns_alone: int = 0
    prefix_repeated_tokens: int = 0
    request_repeated: bool = False

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
    def missing_tokens(self) -> int:
        """Tokens whose keys and values are still to be computed; one while it answers."""
        return len(self.token_ids) - self.computed_tokens


@dataclass(frozen=True, slots=True)
class Slice:
    """What one request computes in one step: token_ids at positions start, start + 1, ….

    block_table   KV blocks of the request, enough for start + len(token_ids) tokens.
    samples       True where these are its last tokens, so that the next one is chosen.
    is_decode     True for the one token that an answer under way adds.
    position      of the token to be chosen in the answer, from 0; with seed it fixes the dice.
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

    @property
    def end(self) -> int:
        return self.start + len(self.token_ids)

    @property
    def context_tokens(self) -> int:
        """Keys that attention reads: token at position p looks at p + 1."""
        return len(self.token_ids) * (self.start + self.end + 1) // 2


class Scheduler:
    """Every request that was added is waiting or running until finish() or cancel() takes it out."""

    def __init__(
        self, pool: BlockPool, *, max_batch_tokens: int, max_batch_requests: int, max_waiting: int
    ) -> None:
        self.pool = pool
        self.preemptions = 0
        self._max_batch_tokens = max_batch_tokens
        self._max_batch_requests = max_batch_requests
        self._max_waiting = max_waiting
        self._waiting: deque[RequestState] = deque()
        self._running: list[RequestState] = []  # oldest first

    def __len__(self) -> int:
        return len(self._running) + len(self._waiting)

    def __iter__(self) -> Iterator[RequestState]:
        yield from self._running
        yield from self._waiting

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def add(self, state: RequestState) -> None:
        """Queue a request. Raises EngineOverloaded when max_waiting wait already."""
        if len(self._waiting) >= self._max_waiting:
            raise EngineOverloaded(
                f"{len(self._waiting)} requests are waiting already, the most that may; try again later"
            )
        self._waiting.append(state)

    def finish(self, state: RequestState) -> None:
        """Take a request out and its blocks back."""
        self.pool.release(state.request_id)
        (self._running if state in self._running else self._waiting).remove(state)

    def plan(self) -> list[Slice]:
        """The next step; empty only when there is nothing to do. Blocks for it are taken."""
        counts = self._counts_of_running()
        counts |= self._counts_of_admitted(self._max_batch_tokens - sum(counts.values()))
        by_id = {state.request_id: state for state in self._running}
        return [self._slice(by_id[request_id], count) for request_id, count in counts.items()]

    def advance(self, slices: Sequence[Slice]) -> None:
        """The step is done: its tokens are in the KV cache."""
        computed = {part.request_id: part.end for part in slices}
        for state in self._running:
            state.computed_tokens = computed.get(state.request_id, state.computed_tokens)

    def _counts_of_running(self) -> dict[str, int]:
        """Tokens by request id, as budget and blocks go.

        In order of age answers come first by themselves: a prompt that the budget cut had all that was left of
        it, so nobody was let in behind.
        """
        counts: dict[str, int] = {}
        budget = self._max_batch_tokens
        for state in tuple(self._running):
            count = min(state.missing_tokens, budget)
            if state in self._running and count and self._make_room(state, count):
                counts[state.request_id] = count
                budget -= count
        return counts

    def _make_room(self, state: RequestState, count: int) -> bool:
        """Find blocks for count more tokens, preempting younger requests for them. False: it went itself."""
        while not self.pool.grow(state.request_id, state.computed_tokens + count):
            youngest = self._running[-1]
            self._preempt(youngest)
            if youngest is state:
                return False
        return True

    def _preempt(self, state: RequestState) -> None:
        self.pool.release(state.request_id)
        self._running.remove(state)
        state.computed_tokens = 0
        self._waiting.appendleft(state)  # before those that came later, whatever max_waiting says
        self.preemptions += 1

    def _counts_of_admitted(self, budget: int) -> dict[str, int]:
        """Let in who waits, in order, until something runs out. Nobody is preempted for a newcomer."""
        counts: dict[str, int] = {}
        while self._waiting and budget and len(self._running) < self._max_batch_requests:
            state = self._waiting[0]
            # Blocks for the whole prompt at once: half a prompt in the cache would only be thrown out again.
            if not self.pool.grow(state.request_id, state.missing_tokens):
                break
            self._running.append(self._waiting.popleft())
            counts[state.request_id] = min(state.missing_tokens, budget)
            budget -= counts[state.request_id]
        return counts

    def _slice(self, state: RequestState, count: int) -> Slice:
        start, end = state.computed_tokens, state.computed_tokens + count
        return Slice(
            request_id=state.request_id,
            token_ids=tuple(state.token_ids[start:end]),
            start=start,
            block_table=self.pool.table(state.request_id),
            samples=end == len(state.token_ids),
            is_decode=count == 1 and start >= state.prompt_tokens,
            sampling=state.request.sampling,
            seed=state.seed,
            position=state.output_tokens,
        )
