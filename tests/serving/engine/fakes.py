"""An engine's parts without a model: a runner that computes nothing, on a clock that we turn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from serving.accounting.neighbours import Ask, nobody_else
from serving.engine.admission import Limits
from serving.engine.kv_cache import BlockPool
from serving.engine.loop import Delivery, Step, StepLoop, StepResult
from serving.engine.request import Objective, Progress, Request, SamplingParams
from serving.engine.scheduler import Propose, Scheduler, no_drafts
from serving.engine.slices import COMING, DRAFT, Slice
from serving.engine.targets import Targets

EOS = 0
NOTHING_PROMISED = Targets()


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
    newest: dict[str, int] = field(default_factory=dict)

    def attach(self) -> None:
        """Runs anywhere."""

    def launch(self, slices: Sequence[Slice]) -> Callable[[], StepResult]:
        device_ns = 1_000 + 10 * sum(len(part.token_ids) for part in slices)
        chosen, drafts = {}, {}
        for part in slices:
            token_ids = self._resolve(part)
            for position, token in enumerate(token_ids, start=part.start):
                self.memory[self._slot(part, position)] = token
            if DRAFT in part.token_ids:
                drafts[part.request_id] = token_ids[-part.drafts :]
            if part.samples:
                ends = range(part.end - part.drafts, part.end + 1)
                chosen[part.request_id] = [self._next(part, end) for end in ends]
        self.newest = {request_id: tokens[-1] for request_id, tokens in chosen.items()}

        def wait() -> StepResult:
            self.clock.ns += device_ns + 7
            return StepResult(chosen, device_ns, drafts)

        return wait

    def run(self, slices: Sequence[Slice]) -> StepResult:
        return self.launch(slices)()

    def spoil(self, slices: Sequence[Slice]) -> None:
        """The step that should have computed these did not."""
        for part in slices:
            for position in range(part.start, part.end):
                self.memory[self._slot(part, position)] = 1_000

    def _resolve(self, part: Slice) -> list[int]:
        """Tokens that only the device knows."""
        if part.token_ids[0] == COMING:
            return [self.newest[part.request_id]]
        return [
            place % 7 if token == DRAFT else token for place, token in enumerate(part.token_ids)
        ]

    def _slot(self, part: Slice, position: int) -> int:
        block, offset = divmod(position, self.block_tokens)
        return part.block_table[block] * self.block_tokens + offset

    def _next(self, part: Slice, end: int) -> int:
        """Reads the whole context from memory, as attention does."""
        return next_token([self.memory[self._slot(part, position)] for position in range(end)])


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
    sharing: bool = True,
    propose: Propose = no_drafts,
    devices: int = 1,
    targets: Targets = NOTHING_PROMISED,
    who_else: Ask = nobody_else,
) -> StepLoop:
    pool = BlockPool(blocks, block_tokens, sharing=sharing)
    scheduler = Scheduler(
        pool,
        max_batch_tokens=max_batch_tokens,
        max_batch_requests=max_batch_requests,
        max_waiting=max_waiting,
        propose=propose,
    )
    limits = Limits(min(context_tokens, pool.capacity_tokens), vocab_size=1_000)
    drafting = propose is not no_drafts
    return StepLoop(
        scheduler,
        Alphabet(),
        limits,
        clock,
        drafting=drafting,
        devices=devices,
        targets=targets,
        who_else=who_else,
    )


def a_request(
    request_id: str = "r",
    prompt: Sequence[int] = (5, 6, 7),
    max_tokens: int = 8,
    *,
    team: str = "",
    objective: Objective = Objective.INTERACTIVE,
    priority: int = 0,
    **sampling: object,
) -> Request:
    params = SamplingParams(max_tokens=max_tokens, **{"temperature": 0.0, **sampling})  # type: ignore[arg-type]
    return Request(request_id, prompt, params, 500, team, objective, priority)


def deliver(deliveries: Sequence[Delivery]) -> None:
    for on_progress, progress in deliveries:
        on_progress(progress)


@dataclass
class Driver:
    """Does steps as the engine does: with overlap the next one begins before the last one is settled."""

    loop: StepLoop
    runner: FakeRunner
    overlaps: bool = False
    under_way: tuple[Step, Callable[[], StepResult]] | None = None

    def turn(self) -> bool:
        """False when there was nothing to do."""
        before, self.under_way = self.under_way, self._launch()
        if before is None and not self.overlaps:
            before, self.under_way = self.under_way, None
        if before is not None:
            step, wait = before
            deliver(self.loop.settle_step(step, wait()))
        return before is not None or self.under_way is not None

    def fail(self) -> None:
        """The step under way fails, and with it the one that began behind it."""
        steps = [self.under_way, self._launch()]
        self.under_way = None
        for under_way in steps:
            if under_way is not None:
                self.runner.clock.ns += 123
                self.runner.spoil(under_way[0].slices)
                deliver(self.loop.fail_step(under_way[0], "out of memory"))

    def errand(self, takes_ns: int) -> int:
        """Work between two steps. Returns what it is charged."""
        before, self.under_way = self.under_way, None
        if before is not None:
            step, wait = before
            deliver(self.loop.settle_step(step, wait()))
        self.loop.begin_work()
        self.runner.clock.ns += takes_ns
        return self.loop.settle_errand().device_ns

    def _launch(self) -> tuple[Step, Callable[[], StepResult]] | None:
        step = self.loop.begin_step()
        return None if step is None else (step, self.runner.launch(step.slices))


def deliver_step(loop: StepLoop, runner: FakeRunner) -> bool:
    """One step. False when there was nothing to do."""
    return Driver(loop, runner).turn()
