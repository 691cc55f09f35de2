"""Everything between two steps of the engine: who is let in, what a step's time was for, who gets what.

The engine calls begin_step(), lets the runner compute, and calls settle_step() or fail_step(), in the order in which
steps began; what these return is to be delivered. The next step may begin before the last one is settled. Nothing here
knows of threads or tensors: the engine holds its lock around every call.
"""

import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from serving.accounting.device_time import DeviceTime
from serving.accounting.energy import Counter, EnergyBooks
from serving.accounting.neighbours import Ask, Neighbours, nobody_else
from serving.accounting.shadow import PrefixShadow, RequestShadow
from serving.accounting.work_model import NOTHING, Share, Work, WorkModel, attribute
from serving.engine.admission import Limits, check
from serving.engine.answer import Answer, Matcher, OnProgress, Vocabulary
from serving.engine.errands import Charge
from serving.engine.request import (
    DeviceClock,
    FinishReason,
    Progress,
    Request,
    RequestRefused,
    TokenLogprob,
)
from serving.engine.scheduler import Scheduler
from serving.engine.slices import RequestState, Slice
from serving.engine.targets import Kept, Targets
from serving.engine.text import TextStream

logger = logging.getLogger(__name__)

Delivery = tuple[OnProgress, Progress]
_NOTHING_PROMISED = Targets()


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step gave; device_ns is its time on the device.

    tokens     chosen ones, by request id: one for each slice that samples, and one more for each of its drafts.
    drafts     those that the device proposed itself.
    logprobs   one for each of tokens, where the request asked for them.
    """

    tokens: Mapping[str, Sequence[int]]
    device_ns: int
    drafts: Mapping[str, Sequence[int]] = field(default_factory=dict)
    logprobs: Mapping[str, Sequence[TokenLogprob]] = field(default_factory=dict)


class Runner(Protocol):
    """Computes steps. attach() is called once, on the thread that launches them.

    launch() begins a step and returns at once where the device works by itself; what it returns waits for the result.
    Steps are computed in the order of their launches.
    """

    def attach(self) -> None: ...

    def launch(self, slices: Sequence[Slice]) -> Callable[[], StepResult]: ...


@dataclass(frozen=True, slots=True)
class Step:
    """A step under way."""

    slices: Sequence[Slice]
    began_ns: int


@dataclass(slots=True)
class Totals:
    """Sums since the start.

    prompt_tokens and cached_prompt_tokens are of prompts that were read to their end, prefix_queried_tokens and
    prefix_hit_tokens of those that were let in.
    """

    steps: int = 0
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    generated_tokens: int = 0
    prefix_queried_tokens: int = 0
    prefix_hit_tokens: int = 0
    draft_tokens: int = 0
    accepted_draft_tokens: int = 0


class StepLoop:
    """The engine's books. Every request that submit() took is finished exactly once.

    devices   that compute each step together: a step's time counts once for each of them.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        vocabulary: Vocabulary,
        limits: Limits,
        now_ns: Callable[[], int] = time.monotonic_ns,
        *,
        work_model: WorkModel | None = None,
        targets: Targets = _NOTHING_PROMISED,
        drafting: bool = False,
        attribution: bool = True,
        read_energy_uj: Counter | None = None,
        who_else: Ask = nobody_else,
        devices: int = 1,
    ) -> None:
        self.scheduler = scheduler
        self.work_model = work_model or WorkModel()
        self.totals = Totals()
        self.kept = Kept(targets)
        self._vocabulary = vocabulary
        self._limits = limits
        self._now_ns = now_ns
        self._drafting = drafting
        self._attribution = attribution
        self._answers: dict[str, Answer] = {}
        self._prefixes = PrefixShadow()
        self._answered = RequestShadow()
        self._devices = devices
        self._time = DeviceTime(now_ns(), time.time_ns(), devices)
        self._energy = read_energy_uj and EnergyBooks(read_energy_uj, now_ns())
        self._neighbours = Neighbours(who_else, now_ns())
        self._under_way = 0

    def submit(
        self, request: Request, on_progress: OnProgress, matcher: Matcher | None = None
    ) -> None:
        """Queue a request; matcher is its constraint's. Raises RequestRefused or EngineOverloaded; then on_progress
        is never called."""
        check(request, self._limits)
        if request.request_id in self._answers:
            raise RequestRefused(f"a request '{request.request_id}' is under way already")
        state = RequestState(
            request,
            _seed(request),
            min(
                len(request.prompt_token_ids) + request.sampling.max_tokens,
                self._limits.context_tokens,
            ),
            drafting=self._drafting and matcher is None,
        )
        self.scheduler.add(state)
        text = TextStream(self._vocabulary.decode, request.sampling.stop)
        self._answers[request.request_id] = Answer(
            state, text, self._vocabulary, on_progress, matcher
        )

    def cancel(self, request_id: str) -> list[Delivery]:
        """End a request, when no step under way computes for it. One that is not there has ended already."""
        answer = self._answers.get(request_id)
        if answer is None or answer.is_over:
            return []
        return self._end(answer, FinishReason.CANCELLED)

    def end_all(self, reason: FinishReason, error: str = "") -> list[Delivery]:
        """End every request; steps under way are given up, and what they computed is not to be trusted."""
        self._under_way = 0
        self.scheduler.pool.forget()
        deliveries = []
        for answer in [*self._answers.values()]:
            answer.state.steps = 0
            deliveries += (
                [self._finish(answer)] if answer.is_over else self._end(answer, reason, error)
            )
        return deliveries

    def begin_step(self) -> Step | None:
        """Plan the next step; None when there is nothing to do before the steps under way are settled."""
        now_ns = self._look()
        slices = [self._with_mask(part) for part in self.scheduler.plan(now_ns)]
        if not slices:
            return None
        self._under_way += 1
        for part in slices:
            self._note_first_step(self._answers[part.request_id], now_ns)
        return Step(slices, now_ns)

    def settle_step(self, step: Step, result: StepResult) -> list[Delivery]:
        """Share the step's time out, take its tokens in, and see who is done."""
        shares = self._close_step(step, result.device_ns)
        deliveries: list[Delivery] = []
        for part in step.slices:
            deliveries += self._settle_slice(part, shares[part.request_id], result)
        self._look()
        return deliveries

    def fail_step(self, step: Step, error: str) -> list[Delivery]:
        """The step failed: who was in it is charged the time that it took, and told.

        Steps that began after it fail too: they build on what it should have computed.
        """
        shares = self._close_step(step, None)
        self.scheduler.pool.forget()
        deliveries: list[Delivery] = []
        for part in step.slices:
            answer = self._answers[part.request_id]
            self._charge(answer, part, shares[part.request_id], 0)
            self.scheduler.settle(part, part.drafts)
            deliveries += (
                self._leave(answer)
                if answer.is_over
                else self._end(answer, FinishReason.ERROR, error)
            )
        self._look()
        return deliveries

    def begin_work(self) -> int:
        """What is no step begins, with nothing else under way. Returns the time."""
        now_ns = self._look()
        self._under_way += 1
        return now_ns

    def settle_errand(self) -> Charge:
        """The work that began is over: what it is charged, whatever it gave."""
        self._under_way -= 1
        device_ns = self._neighbours.ours(self._time.believable(None, self._now_ns()))
        charge = self._charge_errand(device_ns)
        self._look()
        return charge

    def _charge_errand(self, device_ns: int) -> Charge:
        if not self._attribution:
            self._leave_unattributed(device_ns)
            return Charge(0, None)
        self._time.attribute_to_first(device_ns)
        energy_uj = None if self._energy is None else self._energy.charge(device_ns)
        return Charge(device_ns, energy_uj, on_shared_device=self._neighbours.is_shared)

    def begin_warm_up(self, slices: Sequence[Slice]) -> Step:
        return Step(slices, self.begin_work())

    def settle_preparation(self) -> None:
        """What was done since the step began was for nobody, and no step that teaches anything."""
        self._under_way -= 1
        passed_ns = self._time.believable(None, self._now_ns())
        self._leave_unattributed(self._neighbours.ours(passed_ns))
        self._look()

    def settle_warm_up(self, step: Step, result: StepResult) -> None:
        """A step for nobody: its time is unattributed, and what it teaches about steps is kept."""
        self._under_way -= 1
        device_ns = self._time.believable(result.device_ns, self._now_ns())
        self._leave_unattributed(self._neighbours.ours(device_ns))
        self.work_model.observe(device_ns, _works(step.slices).values(), anchor=True)
        self._look()

    def clocks(self) -> Sequence[DeviceClock]:
        """Where each device's time went, up to the last moment for which that is known."""
        if not self._under_way:
            self._look()
        return self._time.clocks()

    @property
    def unfinished_device_ns(self) -> int:
        """What was charged to requests that are still here."""
        return sum(answer.bill.device_ns for answer in self._answers.values())

    def _look(self) -> int:
        now_ns = self._now_ns()
        self._time.look(now_ns, is_idle=not self._under_way)
        near = self._neighbours
        near.look(now_ns)
        if self._energy is not None:
            busy_ns = self._time.busy_of_all_ns
            self._energy.look(now_ns, busy_ns, near.parts, is_shared=near.is_shared)
        return now_ns

    def _leave_unattributed(self, device_ns: int) -> None:
        self._time.leave_unattributed(device_ns)
        if self._energy is not None:
            self._energy.charge(device_ns * self._devices)

    def _charge(self, answer: Answer, part: Slice, share: Share, accepted_drafts: int) -> None:
        answer.bill.charge(share, part, accepted_drafts, is_overrun=answer.is_over)
        answer.bill.on_shared_device |= self._neighbours.is_shared
        if self._energy is not None:
            before_uj = answer.bill.energy_uj or 0
            answer.bill.energy_uj = before_uj + self._energy.charge(share.device_ns)

    def _with_mask(self, part: Slice) -> Slice:
        matcher = self._answers[part.request_id].matcher
        return part if matcher is None or not part.samples else replace(part, mask=matcher.mask())

    def _note_first_step(self, answer: Answer, now_ns: int) -> None:
        """A cache would be asked now, when the request is let in, and not when it came to the door."""
        if answer.scheduled_ns is not None:
            return
        state = answer.state
        answer.scheduled_ns = now_ns
        answer.prefix_repeated_tokens = self._prefixes.observe(state.request.prompt_token_ids)
        answer.request_repeated = self._answered.answered_before(state.request)
        self.totals.prefix_queried_tokens += state.prompt_tokens
        self.totals.prefix_hit_tokens += state.cached_tokens or 0

    def _close_step(self, step: Step, device_ns: int | None) -> Mapping[str, Share]:
        """The requests' shares of the step's time; None where the device did not say how long it took."""
        self._under_way -= 1
        self.totals.steps += 1
        believed_ns = self._time.believable(device_ns, self._now_ns())
        ours_ns = self._neighbours.ours(believed_ns)
        if not self._attribution:
            self._leave_unattributed(ours_ns)
            return {part.request_id: NOTHING for part in step.slices}
        self._time.attribute(ours_ns)
        works = _works(step.slices)
        shares = attribute(ours_ns * self._devices, works, self.work_model.coefficients)
        if device_ns is not None:
            self.work_model.observe(believed_ns, works.values())
        return shares

    def _settle_slice(self, part: Slice, share: Share, result: StepResult) -> list[Delivery]:
        answer = self._answers[part.request_id]
        tokens = result.tokens.get(part.request_id, ())
        accepted = _accepted(part, result) if part.drafts else 0
        self._charge(answer, part, share, accepted)
        self.scheduler.settle(part, part.drafts - accepted)
        self.totals.draft_tokens += part.drafts
        if answer.is_over:
            return self._leave(answer)
        if not tokens:
            return []
        logprobs = result.logprobs.get(part.request_id, ())
        if answer.first_token_ns is None:
            self.totals.prompt_tokens += answer.state.prompt_tokens
            self.totals.cached_prompt_tokens += answer.state.cached_tokens or 0
        try:
            progress = answer.take(tokens[: accepted + 1], logprobs, self._now_ns())
        except Exception as error:  # a fault in one answer's text or constraint is not the others'
            logger.exception("the answer to request '%s' cannot go on", part.request_id)
            return self._end(answer, FinishReason.ERROR, f"the answer cannot go on: {error!r}")
        taken = len(progress.token_ids)
        answer.bill.reject(share, part, drafts=accepted + 1 - taken)
        self.totals.accepted_draft_tokens += taken - 1
        self.totals.generated_tokens += taken
        if answer.is_over and not answer.state.steps:
            return [self._finish(answer, progress)]
        return [(answer.on_progress, progress)]

    def _end(self, answer: Answer, reason: FinishReason, error: str = "") -> list[Delivery]:
        """The answer is over before its time."""
        text = answer.end(reason, self._now_ns(), error)
        progress = Progress(answer.state.request_id, text=text)
        if answer.state.steps:
            return [(answer.on_progress, progress)] if text else []
        return [self._finish(answer, progress)]

    def _leave(self, answer: Answer) -> list[Delivery]:
        """Go, unless a step under way still computes for it."""
        return [] if answer.state.steps else [self._finish(answer)]

    def _finish(self, answer: Answer, progress: Progress | None = None) -> Delivery:
        state = answer.state
        self.scheduler.finish(state)
        del self._answers[state.request_id]
        if answer.reason in (FinishReason.STOP, FinishReason.LENGTH):
            self._answered.answered(state.request)
        finished = answer.finished(self.work_model.method)
        self.kept.observe(state.request.objective, finished)
        last = progress or Progress(state.request_id)
        return answer.on_progress, replace(last, finished=finished)


def _accepted(part: Slice, result: StepResult) -> int:
    """How many drafts, from the first on, are what was chosen in their place."""
    drafts = result.drafts.get(part.request_id, part.token_ids[-part.drafts :])
    chosen = result.tokens[part.request_id]
    for place, draft in enumerate(drafts):
        if draft != chosen[place]:
            return place
    return part.drafts


def _seed(request: Request) -> int:
    seed = request.sampling.seed
    return secrets.randbits(64) if seed is None else seed


def _works(slices: Sequence[Slice]) -> dict[str, Work]:
    return {
        part.request_id: Work(
            prefill_tokens=0 if part.is_decode else len(part.token_ids),
            decode_tokens=len(part.token_ids) if part.is_decode else 0,
            context_tokens=part.context_tokens if part.is_decode else 0,
            prefill_context_tokens=0 if part.is_decode else part.context_tokens,
        )
        for part in slices
    }
