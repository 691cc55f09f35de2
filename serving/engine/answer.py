"""One answer in the making: its text, its ends, its times, and what it is charged."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from serving.accounting.work_model import Share
from serving.engine.request import Finished, FinishReason, Progress, TokenLogprob, Waste
from serving.engine.slices import RequestState, Slice
from serving.engine.text import TextStream

OnProgress = Callable[[Progress], None]


class Vocabulary(Protocol):
    """What an answer needs of a tokenizer."""

    @property
    def eos_token_ids(self) -> Collection[int]: ...

    def decode(self, token_ids: Sequence[int], /) -> str: ...


class Matcher(Protocol):
    """A constraint on its way through an answer (see constraints/grammars.py)."""

    def mask(self) -> object: ...

    def accept(self, token_id: int) -> None: ...

    @property
    def is_over(self) -> bool: ...


@dataclass(slots=True)
class Bill:
    """What a request is charged so far, and what of it was for nothing."""

    device_ns: int = 0
    device_ns_marginal: int = 0
    device_ns_alone: int = 0
    draft_tokens: int = 0
    accepted_draft_tokens: int = 0
    recomputed_tokens: int = 0
    overrun_tokens: int = 0
    wasted_ns: int = 0
    energy_uj: int | None = None  # None where the device has no counter
    on_shared_device: bool = False  # in any of its steps

    def charge(self, share: Share, part: Slice, accepted_drafts: int, *, is_overrun: bool) -> None:
        """Add a step's share. is_overrun: the answer had ended before the step did."""
        self.device_ns += share.device_ns
        self.device_ns_marginal += share.marginal_ns
        self.device_ns_alone += share.alone_ns
        self.draft_tokens += part.drafts
        self.accepted_draft_tokens += accepted_drafts
        self.recomputed_tokens += part.repeated_tokens
        computed = len(part.token_ids)
        self.overrun_tokens += computed if is_overrun else 0
        wasted = computed if is_overrun else part.repeated_tokens + part.drafts - accepted_drafts
        self.wasted_ns += share.device_ns * wasted // computed

    def reject(self, share: Share, part: Slice, *, drafts: int) -> None:
        """Of a step that is charged already: drafts that were right, and came behind the answer's end."""
        self.accepted_draft_tokens -= drafts
        self.wasted_ns += share.device_ns * drafts // len(part.token_ids)

    def waste(self) -> Waste:
        return Waste(
            recomputed_tokens=self.recomputed_tokens,
            rejected_draft_tokens=self.draft_tokens - self.accepted_draft_tokens,
            overrun_tokens=self.overrun_tokens,
            device_ns=self.wasted_ns,
        )


@dataclass(slots=True, eq=False)
class Answer:
    """A request's state, its answer so far, and whom to tell.

    ended_ns and reason are there as soon as the end is known; steps under way may still be charged then.
    """

    state: RequestState
    text: TextStream
    vocabulary: Vocabulary
    on_progress: OnProgress
    matcher: Matcher | None = None
    bill: Bill = field(default_factory=Bill)
    scheduled_ns: int | None = None
    first_token_ns: int | None = None
    ended_ns: int | None = None
    reason: FinishReason | None = None
    error: str = ""
    prefix_repeated_tokens: int = 0
    request_repeated: bool = False

    @property
    def is_over(self) -> bool:
        return self.reason is not None

    def take(
        self, tokens: Sequence[int], logprobs: Sequence[TokenLogprob], now_ns: int
    ) -> Progress:
        """What the client gets of the tokens that a step chose: those up to the end, if one of them is it."""
        state, text, taken = self.state, "", 0
        self.first_token_ns = self.first_token_ns or now_ns
        for token_id in tokens:
            taken += 1
            state.token_ids.append(token_id)
            text += self.text.push(token_id)
            if self.matcher is not None:
                self.matcher.accept(token_id)
            reason = self._reason_to_end(token_id)
            if reason is not None:
                text += self.end(reason, now_ns)
                break
        return Progress(state.request_id, tuple(tokens[:taken]), text, tuple(logprobs[:taken]))

    def end(self, reason: FinishReason, now_ns: int, error: str = "") -> str:
        """The answer is over; returns the text that was withheld until now."""
        self.reason, self.ended_ns, self.error = reason, now_ns, error
        self.state.leaving = True
        return self.text.finish()

    def _reason_to_end(self, token_id: int) -> FinishReason | None:
        state, sampling = self.state, self.state.request.sampling
        ended = token_id in self.vocabulary.eos_token_ids and not sampling.ignore_eos
        over = self.matcher is not None and self.matcher.is_over
        if ended or over or token_id in sampling.stop_token_ids or self.text.stopped:
            return FinishReason.STOP
        return FinishReason.LENGTH if len(state.token_ids) >= state.most_tokens else None

    def finished(self, allocation_method: str) -> Finished:
        """How it ended. Raises AssertionError before it has."""
        assert self.reason is not None
        assert self.ended_ns is not None
        state, bill = self.state, self.bill
        return Finished(
            reason=self.reason,
            prompt_tokens=state.prompt_tokens,
            output_tokens=state.output_tokens,
            arrived_ns=state.request.arrived_ns,
            scheduled_ns=self.scheduled_ns,
            first_token_ns=self.first_token_ns,
            finished_ns=self.ended_ns,
            device_ns=bill.device_ns,
            device_ns_marginal=bill.device_ns_marginal,
            device_ns_alone=bill.device_ns_alone,
            prefix_repeated_tokens=self.prefix_repeated_tokens,
            request_repeated=self.request_repeated,
            cached_tokens=state.cached_tokens or 0,
            preemptions=state.preemptions,
            draft_tokens=bill.draft_tokens,
            accepted_draft_tokens=bill.accepted_draft_tokens,
            waste=bill.waste(),
            allocation_method=allocation_method,
            energy_uj=bill.energy_uj,
            on_shared_device=bill.on_shared_device,
            error=self.error,
        )
