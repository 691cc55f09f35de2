"""Everything between two steps of the engine: who is let in, what a step's time was for, who gets what.

The engine calls begin_step(), lets the runner compute, and calls settle_step() or fail_step(); what these return
is to be delivered. Nothing here knows of threads or tensors: the engine holds its lock around every call.
"""

import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from serving.engine.accounting import Work, WorkModel, attribute
from serving.engine.request import (
    DeviceClock,
    Finished,
    FinishReason,
    Progress,
    Request,
    RequestRefused,
)
from serving.engine.scheduler import RequestState, Scheduler, Slice
from serving.engine.shadow import PrefixShadow, RequestShadow
from serving.engine.text import TextStream

OnProgress = Callable[[Progress], None]
Delivery = tuple[OnProgress, Progress]


@dataclass(frozen=True, slots=True)
class StepResult:
    """tokens by request id, one for each slice that samples; device_ns is the step's time on the device."""

    tokens: Mapping[str, int]
    device_ns: int


class Runner(Protocol):
    """Computes steps. attach() is called once, on the thread that runs them."""

    def attach(self) -> None: ...

    def run(self, slices: Sequence[Slice]) -> StepResult: ...


class Vocabulary(Protocol):
    """What the loop needs of a tokenizer."""

    @property
    def eos_token_ids(self) -> Collection[int]: ...

    def decode(self, token_ids: Sequence[int], /) -> str: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may ask for. context_tokens counts prompt and answer."""

    context_tokens: int
    vocab_size: int


@dataclass(frozen=True, slots=True)
class Step:
    """A step under way."""

    slices: Sequence[Slice]
    began_ns: int


@dataclass(slots=True)
class _Client:
    """A request's state, its answer as text, and whom to tell."""

    state: RequestState
    text: TextStream
    on_progress: OnProgress


class StepLoop:
    """The engine's books. Every request that submit() took is finished exactly once."""

    def __init__(
        self,
        scheduler: Scheduler,
        vocabulary: Vocabulary,
        limits: Limits,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.scheduler = scheduler
        self.work_model = WorkModel()
        self._vocabulary = vocabulary
        self._limits = limits
        self._now_ns = now_ns
        self._clients: dict[str, _Client] = {}
        self._prefixes = PrefixShadow()
        self._answers = RequestShadow()
        self._started_ns = now_ns()
        self._started_unix_ns = time.time_ns()
        self._attributed_ns = 0
        self._unattributed_ns = 0
        self._step_began_ns: int | None = None

    def submit(self, request: Request, on_progress: OnProgress) -> None:
        """Queue a request. Raises RequestRefused or EngineOverloaded; then on_progress is never called."""
        self._check(request)
        state = RequestState(request, _seed(request))
        self.scheduler.add(state)
        text = TextStream(self._vocabulary.decode, request.sampling.stop)
        self._clients[request.request_id] = _Client(state, text, on_progress)

    def cancel(self, request_id: str) -> list[Delivery]:
        """End a request, between steps. One that is not there has ended already."""
        if request_id not in self._clients:
            return []
        return [self._finish(self._clients[request_id], FinishReason.CANCELLED)]

    def end_all(self, reason: FinishReason, error: str = "") -> list[Delivery]:
        """End every request; a step under way is given up."""
        self._step_began_ns = None
        return [self._finish(client, reason, error=error) for client in [*self._clients.values()]]

    def begin_step(self) -> Step | None:
        """Plan the next step; None when nobody wants anything."""
        slices = self.scheduler.plan()
        if not slices:
            return None
        step = Step(slices, self._now_ns())
        for part in slices:
            self._note_first_step(self._clients[part.request_id].state, step.began_ns)
        self._step_began_ns = step.began_ns
        return step

    def settle_step(self, step: Step, result: StepResult) -> list[Delivery]:
        """Share the step's time out, take its tokens in, and see who is done."""
        works = _works(step.slices)
        device_ns = self._close_step(step, result.device_ns)
        self._charge(device_ns, works)
        self.work_model.observe(device_ns, works.values())
        self.scheduler.advance(step.slices)
        return [self._take_token(request_id, token) for request_id, token in result.tokens.items()]

    def fail_step(self, step: Step, error: str) -> list[Delivery]:
        """The step failed: who was in it is charged the time that it took, and told."""
        self._charge(self._close_step(step, None), _works(step.slices))
        failed = [self._clients[part.request_id] for part in step.slices]
        return [self._finish(client, FinishReason.ERROR, error=error) for client in failed]

    def settle_warm_up(self, step: Step, result: StepResult) -> None:
        """A step for nobody: its time is unattributed, and what it teaches about steps is kept."""
        device_ns = self._close_step(step, result.device_ns)
        self._unattributed_ns += device_ns
        self.work_model.observe(device_ns, _works(step.slices).values(), anchor=True)

    def begin_warm_up(self, slices: Sequence[Slice]) -> Step:
        self._step_began_ns = self._now_ns()
        return Step(slices, self._step_began_ns)

    def clock(self) -> DeviceClock:
        """Where the time went, up to the last instant of which that is known: now, or the begin of the step
        under way. So none of the figures ever falls."""
        until_ns = self._now_ns() if self._step_began_ns is None else self._step_began_ns
        wall_ns = until_ns - self._started_ns
        return DeviceClock(
            started_unix_ns=self._started_unix_ns,
            wall_ns=wall_ns,
            attributed_ns=self._attributed_ns,
            unattributed_ns=self._unattributed_ns,
            idle_ns=wall_ns - self._attributed_ns - self._unattributed_ns,
        )

    def _check(self, request: Request) -> None:
        _check_sampling(request)
        self._check_prompt(request.prompt_token_ids)
        if request.request_id in self._clients:
            raise RequestRefused(f"a request '{request.request_id}' is under way already")

    def _check_prompt(self, token_ids: Sequence[int]) -> None:
        if not token_ids:
            raise RequestRefused("the prompt is empty; send at least one token")
        limit = self._limits.context_tokens
        if len(token_ids) >= limit:
            raise RequestRefused(
                f"the prompt has {len(token_ids)} tokens; prompt and answer have room for {limit} "
                f"together: send at most {limit - 1}"
            )
        if min(token_ids) < 0 or max(token_ids) >= self._limits.vocab_size:
            raise RequestRefused(
                f"the prompt has token ids from {min(token_ids)} to {max(token_ids)}; "
                f"the model knows 0 to {self._limits.vocab_size - 1}"
            )

    def _note_first_step(self, state: RequestState, began_ns: int) -> None:
        """A cache would be asked now, when the request is let in, and not when it came to the door."""
        if state.scheduled_ns is None:
            state.scheduled_ns = began_ns
            state.prefix_repeated_tokens = self._prefixes.observe(state.request.prompt_token_ids)
            state.request_repeated = self._answers.answered_before(state.request)

    def _close_step(self, step: Step, device_ns: int | None) -> int:
        """The step's time: the device's word, but never more than passed, or idle time would be negative."""
        self._step_began_ns = None
        passed_ns = self._now_ns() - step.began_ns
        return passed_ns if device_ns is None else min(device_ns, passed_ns)

    def _charge(self, device_ns: int, works: Mapping[str, Work]) -> None:
        for request_id, share in attribute(device_ns, works, self.work_model.coefficients).items():
            state = self._clients[request_id].state
            state.device_ns += share.device_ns
            state.device_ns_marginal += share.marginal_ns
            state.device_ns_alone += share.alone_ns
        self._attributed_ns += device_ns

    def _take_token(self, request_id: str, token_id: int) -> Delivery:
        client = self._clients[request_id]
        state = client.state
        state.token_ids.append(token_id)
        if state.first_token_ns is None:
            state.first_token_ns = self._now_ns()
        text = client.text.push(token_id)
        reason = self._finish_reason(client, token_id)
        if reason is not None:
            return self._finish(client, reason, token_ids=(token_id,), text=text)
        return client.on_progress, Progress(request_id, (token_id,), text)

    def _finish_reason(self, client: _Client, token_id: int) -> FinishReason | None:
        state, sampling = client.state, client.state.request.sampling
        ended = token_id in self._vocabulary.eos_token_ids and not sampling.ignore_eos
        if ended or client.text.stopped:
            return FinishReason.STOP
        full = len(state.token_ids) >= self._limits.context_tokens
        return FinishReason.LENGTH if full or state.output_tokens >= sampling.max_tokens else None

    def _finish(
        self,
        client: _Client,
        reason: FinishReason,
        *,
        token_ids: tuple[int, ...] = (),
        text: str = "",
        error: str = "",
    ) -> Delivery:
        state = client.state
        self.scheduler.finish(state)
        del self._clients[state.request_id]
        if reason in (FinishReason.STOP, FinishReason.LENGTH):
            self._answers.answered(state.request)
        finished = _finished(state, reason, self._now_ns(), error)
        text += client.text.finish()
        return client.on_progress, Progress(state.request_id, token_ids, text, finished)


def _finished(state: RequestState, reason: FinishReason, now_ns: int, error: str) -> Finished:
    return Finished(
        reason=reason,
        prompt_tokens=state.prompt_tokens,
        output_tokens=state.output_tokens,
        arrived_ns=state.request.arrived_ns,
        scheduled_ns=state.scheduled_ns,
        first_token_ns=state.first_token_ns,
        finished_ns=now_ns,
        device_ns=state.device_ns,
        device_ns_marginal=state.device_ns_marginal,
        device_ns_alone=state.device_ns_alone,
        prefix_repeated_tokens=state.prefix_repeated_tokens,
        request_repeated=state.request_repeated,
        error=error,
    )


def _seed(request: Request) -> int:
    seed = request.sampling.seed
    return secrets.randbits(64) if seed is None else seed


def _works(slices: Sequence[Slice]) -> dict[str, Work]:
    return {
        part.request_id: Work(
            prefill_tokens=0 if part.is_decode else len(part.token_ids),
            decode_tokens=len(part.token_ids) if part.is_decode else 0,
            context_tokens=part.context_tokens,
        )
        for part in slices
    }


def _check_sampling(request: Request) -> None:
    sampling = request.sampling
    wrong = [
        f"{name}={getattr(sampling, name)}: expected {wanted}"
        for name, wanted, fits in (
            ("max_tokens", "at least 1", sampling.max_tokens >= 1),
            ("temperature", "0 or more", sampling.temperature >= 0),
            ("top_p", "above 0 and at most 1", 0 < sampling.top_p <= 1),
            ("top_k", "0 (all) or more", sampling.top_k >= 0),
            ("stop", "texts that are not empty", all(sampling.stop)),
        )
        if not fits
    ]
    if wrong:
        raise RequestRefused("; ".join(wrong))
