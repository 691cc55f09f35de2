"""Runs steps on the device, and says how long the device took."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from serving.engine.loop import StepResult
from serving.engine.paged_model import Computed, Earlier, PagedModel, PagedSizes, Plan
from serving.engine.request import TokenLogprob
from serving.engine.slices import Slice
from serving.kernels.cores import pin
from serving.models.decoder import Decoder
from serving.sampling.sampler import Chosen, Row, choose


class Followers(Protocol):
    """The other ranks, which compute every plan together with this one (see serving/parallel)."""

    @property
    def ranks(self) -> int:
        """How many they are with this one, each with a device."""

    @property
    def pids(self) -> Sequence[int]:
        """Of the others' processes."""

    def when_lost(self, tell: Callable[[str], None]) -> None:
        """tell is called once, from any thread, when a rank is gone and nothing can be computed any more."""

    def build(self, sizes: PagedSizes) -> None:
        """Each makes its PagedModel."""

    def prepare(self) -> None:
        """Each begins what PagedModel.prepare does, for which it needs this rank to do the same."""

    def computing(self, plan: Plan, drawn: Tensor | None) -> AbstractContextManager[None]:
        """Each begins to run the plan; in the block this rank runs it. drawn: tokens of the step before, which only
        this rank knows and the plan needs. Raises EngineFailed where any of them, or the block, does not go well."""

    def check(self) -> None:
        """Raises EngineFailed where a rank is gone: what this one computed then is nothing."""


class TorchRunner:
    """A model on its device; draft_model, if there is one, proposes where slices leave places for drafts.

    followers   the other ranks, where the model is one rank's part. The draft model is whole, and this rank's alone.
    """

    def __init__(
        self,
        model: Decoder,
        sizes: PagedSizes,
        *,
        threads: int,
        cores: Sequence[int] = (),
        draft_model: Decoder | None = None,
        followers: Followers | None = None,
    ) -> None:
        self._paged = PagedModel(model, sizes)
        drafting = None if draft_model is None else PagedModel(draft_model, sizes)
        self._drafter = None if drafting is None else Drafter(drafting)
        self._threads = threads
        self._cores = cores
        self._followers = followers
        self._earlier: Earlier | None = None
        if followers is not None:
            followers.build(sizes)

    def attach(self) -> None:
        """Bind to the calling thread, which is to run the steps."""
        torch.set_num_threads(self._threads)
        if self._cores:
            pin(self._cores)
        if self._followers is not None:
            self._followers.prepare()
        self._paged.prepare()
        if self._drafter is not None:
            self._drafter.prepare()

    @torch.inference_mode()
    def launch(self, slices: Sequence[Slice]) -> Callable[[], StepResult]:
        """Begin to compute the slices; what comes back waits for the tokens and for the step's time."""
        timer = _timer(self._paged.model.device)
        drafts: Mapping[str, Sequence[int]] = {}
        if self._drafter is not None:
            drafts = self._drafter.propose(slices, self._earlier)
            slices = [_with_drafts(part, drafts) for part in slices]
        computed = self._compute(slices)
        chosen = self._choose(computed)
        self._earlier = _earlier(computed, chosen)
        on_host = None if chosen is None else chosen.to_host()
        stop_ns = timer.stop()

        def wait() -> StepResult:
            result = _result(computed.sampling, on_host, drafts, stop_ns())
            if self._followers is not None:
                self._followers.check()
            return result

        return wait

    def _compute(self, slices: Sequence[Slice]) -> Computed:
        """This rank's part, while the others compute theirs."""
        earlier = self._earlier
        plan = self._paged.plan(slices, earlier)
        if self._followers is None:
            return self._paged.computed(slices, plan, earlier)
        drawn = None if earlier is None else earlier.drawn_for(plan)
        with self._followers.computing(plan, drawn):
            return self._paged.computed(slices, plan, earlier)

    def _choose(self, computed: Computed) -> Chosen | None:
        rows = [row for part in computed.sampling for row in _rows(part)]
        if not rows:
            return None
        if computed.most_probable is not None and all(row.is_plain for row in rows):
            return Chosen(computed.most_probable)
        chosen = choose(computed.logits, rows)
        self._paged.remember(chosen.token_ids)
        return chosen


class Drafter:
    """A small model that computes every token that the large one does, in blocks of the same numbers, so that it always
    knows what came before."""

    def __init__(self, paged: PagedModel) -> None:
        self._paged = paged

    def prepare(self) -> None:
        self._paged.prepare()

    def propose(self, slices: Sequence[Slice], earlier: Earlier | None) -> dict[str, Sequence[int]]:
        """Its most probable tokens in the places for drafts, by request id."""
        drafts: dict[str, list[int]] = {part.request_id: [] for part in slices if part.drafts}
        computed = self._paged.compute([_without_drafts(part) for part in slices], earlier)
        most = max((part.drafts for part in slices), default=0)
        # One round more than there are drafts: the last draft's keys and values are needed if it is kept.
        for place in range(most):
            best = computed.logits.argmax(dim=-1).tolist() if computed.sampling else []
            for part, token_id in zip(computed.sampling, best, strict=True):
                if part.request_id in drafts:
                    drafts[part.request_id].append(token_id)
            going_on = [
                _at_draft(part, place, drafts[part.request_id][place])
                for part in slices
                if part.drafts > place
            ]
            computed = self._paged.compute(going_on, None)
        return {
            part.request_id: drafts[part.request_id][: part.drafts]
            for part in slices
            if part.drafts
        }


def _without_drafts(part: Slice) -> Slice:
    return replace(part, token_ids=part.token_ids[: len(part.token_ids) - part.drafts], drafts=0)


def _at_draft(part: Slice, place: int, token_id: int) -> Slice:
    """The slice of one draft alone."""
    start = part.end - part.drafts + place
    return replace(part, token_ids=(token_id,), start=start, drafts=0)


def _with_drafts(part: Slice, drafts: Mapping[str, Sequence[int]]) -> Slice:
    if not part.drafts:
        return part
    sure = part.token_ids[: len(part.token_ids) - part.drafts]
    return replace(part, token_ids=(*sure, *drafts[part.request_id]))


def _rows(part: Slice) -> list[Row]:
    """One for each token that is chosen: after the newest one, and after each draft as if it were kept."""
    drafts = part.token_ids[len(part.token_ids) - part.drafts :]
    return [
        Row(
            sampling=part.sampling,
            seed=part.seed,
            position=part.position + place,
            history=(*part.history, *drafts[:place]) if part.history else (),
            prompt_tokens=part.prompt_tokens,
            mask=part.mask if isinstance(part.mask, Tensor) else None,
        )
        for place in range(part.drafts + 1)
    ]


def _earlier(computed: Computed, chosen: Chosen | None) -> Earlier | None:
    """Tokens that the next step may need before they are known here; drafts are never needed so early."""
    if chosen is None:
        return None
    places: dict[str, int] = {}
    row = 0
    for part in computed.sampling:
        places[part.request_id] = row
        row += part.drafts + 1
    return Earlier(chosen.token_ids, places, chosen.token_ids is not computed.most_probable)


def _result(
    sampling: Sequence[Slice],
    chosen: Chosen | None,
    drafts: Mapping[str, Sequence[int]],
    device_ns: int,
) -> StepResult:
    """Waits for the device."""
    if chosen is None:
        return StepResult({}, device_ns)
    token_ids = chosen.token_ids.tolist()
    tokens: dict[str, Sequence[int]] = {}
    logprobs: dict[str, Sequence[TokenLogprob]] = {}
    reports = chosen.logprobs()
    row = 0
    for part in sampling:
        rows = slice(row, row + part.drafts + 1)
        tokens[part.request_id] = token_ids[rows]
        if part.sampling.logprobs is not None:
            logprobs[part.request_id] = [report for report in reports[rows] if report is not None]
        row = rows.stop
    return StepResult(tokens, device_ns, drafts, logprobs)


class _ClockTimer:
    """A CPU works while we wait for it: the monotonic clock is its time."""

    def __init__(self) -> None:
        self._began_ns = time.monotonic_ns()

    def stop(self) -> Callable[[], int]:
        passed_ns = time.monotonic_ns() - self._began_ns
        return lambda: passed_ns


class _EventTimer:
    """A GPU's own clock. stop() marks the end; what it returns waits for it and gives the nanoseconds between."""

    def __init__(self) -> None:
        self._began, self._ended = _event(), _event()
        self._began.record()

    def stop(self) -> Callable[[], int]:
        self._ended.record()

        def elapsed_ns() -> int:
            self._ended.synchronize()
            elapsed_ms: float = self._began.elapsed_time(self._ended)
            return round(elapsed_ms * 1e6)

        return elapsed_ns


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _timer(device: torch.device) -> _ClockTimer | _EventTimer:
    return _EventTimer() if device.type == "cuda" else _ClockTimer()
