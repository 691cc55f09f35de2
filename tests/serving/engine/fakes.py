"""An engine's parts without a model: a runner that computes nothing, on a clock that we turn."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from serving.engine.kv_cache import BlockPool
from serving.engine.loop import Limits, StepLoop, StepResult
from serving.engine.request import Progress, Request, SamplingParams
from serving.engine.scheduler import Scheduler, Slice

EOS = 0


@dataclass
class FakeClock:
    ns: int = 1_000

    def __call__(self) -> int:
        return self.ns


class Alphabet:
    """Token 1 is "a", 2 is "b", …; token 0 ends an answer."""

    eos_token_ids = frozenset({EOS})

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(chr(ord("a") + token - 1) for token in token_ids if token != EOS)


@dataclass
class FakeRunner:
    """The next token is a rule of the tokens before; it keeps its own KV cache and checks that nobody else
    writes into a request's blocks. A step takes 1 µs and 10 ns a token."""

    clock: FakeClock
    block_tokens: int
    memory: dict[int, int] = field(default_factory=dict)

    def attach(self) -> None:
        """Runs anywhere."""

    def run(self, slices: Sequence[Slice]) -> StepResult:
        for part in slices:
            for position, token in enumerate(part.token_ids, start=part.start):
                self.memory[self._slot(part, position)] = token
        device_ns = 1_000 + 10 * sum(len(part.token_ids) for part in slices)
        self.clock.ns += device_ns + 7
        tokens = {part.request_id: self._next(part) for part in slices if part.samples}
        return StepResult(tokens, device_ns)

    def _slot(self, part: Slice, position: int) -> int:
        block, offset = divmod(position, self.block_tokens)
        return part.block_table[block] * self.block_tokens + offset

    def _next(self, part: Slice) -> int:
        """Reads the whole context from memory, as attention does."""
        return next_token([self.memory[self._slot(part, position)] for position in range(part.end)])


def next_token(context: Sequence[int]) -> int:
    return sum(token * (place + 1) for place, token in enumerate(context)) % 29 % 23


@dataclass
class Listener:
    """What a client saw, by request id."""

    seen: dict[str, list[Progress]] = field(default_factory=dict)

    def __call__(self, progress: Progress) -> None:
        self.seen.setdefault(progress.request_id, []).append(progress)

    def tokens(self, request_id: str) -> list[int]:
        return [token for progress in self.seen[request_id] for token in progress.token_ids]

    def text(self, request_id: str) -> str:
        return "".join(progress.text for progress in self.seen[request_id])


def a_loop(
    clock: FakeClock,
    *,
    blocks: int = 64,
    block_tokens: int = 4,
    max_batch_tokens: int = 16,
    max_batch_requests: int = 4,
    max_waiting: int = 100,
    context_tokens: int = 200,
) -> StepLoop:
    pool = BlockPool(blocks, block_tokens)
    scheduler = Scheduler(
        pool,
        max_batch_tokens=max_batch_tokens,
        max_batch_requests=max_batch_requests,
        max_waiting=max_waiting,
    )
    limits = Limits(min(context_tokens, pool.capacity_tokens), vocab_size=1_000)
    return StepLoop(scheduler, Alphabet(), limits, clock)


def a_request(
    request_id: str = "r",
    prompt: Sequence[int] = (5, 6, 7),
    max_tokens: int = 8,
    **sampling: object,
) -> Request:
    params = {"temperature": 0.0, **sampling}
    return Request(request_id, prompt, SamplingParams(max_tokens=max_tokens, **params), 500)  # type: ignore[arg-type]


def deliver_step(loop: StepLoop, runner: FakeRunner) -> bool:
    """One step, as the engine does it. False when there was nothing to do."""
    step = loop.begin_step()
    if step is None:
        return False
    for on_progress, progress in loop.settle_step(step, runner.run(step.slices)):
        on_progress(progress)
    return True
