"""The engine: takes requests from any thread, computes steps on its own.

EngineConfig   how large it is
Engine         start, submit, cancel, between_steps, clock, stats, stop
"""

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, TypeVar

from serving.accounting.energy import find_counter
from serving.accounting.gpus import gpu_ids
from serving.accounting.neighbours import ask_the_driver
from serving.accounting.work_model import WorkModel, WorkModelStats
from serving.constraints.grammars import Grammars
from serving.engine.admission import Limits
from serving.engine.answer import Matcher, OnProgress
from serving.engine.config import EngineConfig
from serving.engine.cores import read_cores
from serving.engine.errands import Done, Errand
from serving.engine.kv_cache import BlockPool
from serving.engine.loop import Delivery, Runner, Step, StepLoop, StepResult
from serving.engine.pace import Allow, Deadline, IsAtRisk, Pace, no_deadline, no_limit
from serving.engine.paged_model import PagedSizes, block_bytes, cache_dtype
from serving.engine.request import (
    DeviceClock,
    EngineFailed,
    EngineOverloaded,
    FinishReason,
    Request,
)
from serving.engine.runner import Followers, TorchRunner
from serving.engine.scheduler import Propose, Scheduler, no_drafts
from serving.engine.speculate import DeviceDrafts, NGrams
from serving.engine.warm_up import warm_up_steps
from serving.layers.rotary_by_length import kind_of_keys
from serving.models.decoder import Decoder
from serving.weights import LoadedModel

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
_STOPPING = "the engine is stopping; try again later"


@dataclass(frozen=True, slots=True)
class EngineStats:
    """How full the engine is at this instant, and sums since its start."""

    running: int
    waiting: int
    kv_blocks: int
    kv_blocks_used: int
    preemptions: int  # this and all below since the start
    steps: int
    prompt_tokens: int
    cached_prompt_tokens: int
    generated_tokens: int
    prefix_queried_tokens: int
    prefix_hit_tokens: int
    draft_tokens: int
    accepted_draft_tokens: int
    work_model: WorkModelStats
    targets_kept: Mapping[tuple[str, str, bool], int]
    failure: str = ""  # why it computes no more; empty while it does


@dataclass(frozen=True, slots=True)
class _UnderWay:
    """A step that was launched, and what waits for its result."""

    step: Step
    wait: Callable[[], StepResult]


class Engine:
    """Runs a loaded model's steps on a thread of its own.

    on_progress is called on that thread, in the order of the tokens; it must not block. The last Progress of a
    request carries Finished, also when it failed, was cancelled, or the engine stopped. runner computes the
    steps; None makes one for the model, with a KV cache of the configured size. Where config.overlap says so, the next
    step is planned and launched before the last one's tokens are looked at, and the device never waits for us.
    followers are the other ranks where the model is one rank's part; when one is lost, the engine has failed.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        config: EngineConfig,
        runner: Runner | None = None,
        draft_model: Decoder | None = None,
        followers: Followers | None = None,
    ) -> None:
        dtype = cache_dtype(config.kv_cache_dtype, loaded.model.dtype)
        size = block_bytes(loaded.config, config.block_tokens, dtype)
        ropes = [loaded.config.rope]
        if draft_model is not None:
            _check_vocabulary(loaded, draft_model)
            size += block_bytes(draft_model.config, config.block_tokens, dtype)
            ropes.append(draft_model.config.rope)
        pool = BlockPool(config.blocks(size), config.block_tokens, sharing=config.prefix_cache)
        self.config = config
        self.context_tokens = min(loaded.config.max_position_embeddings, pool.capacity_tokens)
        self._runner = runner or TorchRunner(
            loaded.model,
            PagedSizes(
                blocks=pool.blocks,
                block_tokens=config.block_tokens,
                cache_dtype=dtype,
                max_requests=config.replayed_requests(loaded.model.device.type),
            ),
            threads=config.threads,
            cores=read_cores(config.cores),
            draft_model=draft_model,
            followers=followers,
        )
        work_model = WorkModel()
        devices = 1 if followers is None else followers.ranks
        gpus = gpu_ids(loaded.model.device, devices)
        self._loop = StepLoop(
            Scheduler(
                pool,
                max_batch_tokens=config.max_batch_tokens,
                max_batch_requests=config.max_batch_requests,
                max_waiting=config.max_waiting,
                propose=_propose(config),
                kind_of_keys=partial(kind_of_keys, ropes),
                pace=_pace(config, work_model),
                is_at_risk=_deadline(config, work_model),
            ),
            loaded.tokenizer,
            Limits(self.context_tokens, loaded.config.vocab_size),
            work_model=work_model,
            targets=config.targets,
            drafting=config.speculation is not None,
            attribution=config.attribution,
            read_energy_uj=find_counter(loaded.model.device.type, gpus),
            who_else=ask_the_driver(gpus, _our_pids(followers)),
            devices=devices,
        )
        self._loaded = loaded
        self._grammars: Grammars | None = None
        self._compiling = threading.Lock()
        self._overlaps = config.overlaps(loaded.model.device.type)
        self._under_way: _UnderWay | None = None
        self._wake = threading.Condition()  # its lock guards all that follows, and the loop
        self._to_cancel: set[str] = set()
        self._errands: deque[Errand[Any]] = deque()
        self._stopping = False
        self._failure: Exception | None = None
        self._warm = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="engine", daemon=True)
        if followers is not None:
            followers.when_lost(self.abandon)

    def start(self) -> None:
        """Begin to serve; returns after the warm-up. Raises what the warm-up failed with."""
        self._thread.start()
        self._warm.wait()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """End every request (CANCELLED) and the thread; returns when both are done. Twice is once."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()
        if self._grammars is not None:
            self._grammars.close()

    def submit(self, request: Request, on_progress: OnProgress) -> None:
        """Queue a request. Raises RequestRefused (it can't be served as it stands), EngineOverloaded or EngineFailed;
        then on_progress is never called. A new constraint is compiled first, which may take a second."""
        matcher = self._matcher(request)
        with self._wake:
            self._check_that_it_serves()
            self._loop.submit(request, on_progress, matcher)
            self._wake.notify()

    def abandon(self, reason: str) -> None:
        """Compute no more: every request ends with this error, and later ones are told it. From any thread."""
        with self._wake:
            self._failure = self._failure or EngineFailed(reason)
            self._stopping = True
            self._wake.notify()

    def cancel(self, request_id: str) -> None:
        """End a request soon; its Finished says CANCELLED unless it was done before. Unknown ids are ignored."""
        with self._wake:
            self._to_cancel.add(request_id)
            self._wake.notify()

    def between_steps(self, work: Callable[[], Result]) -> "Future[Done[Result]]":
        """Do the work on the engine's thread, soon, with the device to itself. Whatever it raises is told as Done.

        Work takes turns with steps, one piece after each, so short pieces hold nobody up. Raises EngineOverloaded when
        the engine stops, EngineFailed when it failed; so does the future of work that had not begun by then.
        """
        errand = Errand(work)
        with self._wake:
            self._check_that_it_serves()
            self._errands.append(errand)
            self._wake.notify()
        return errand.done

    def clock(self) -> DeviceClock:
        """Where the first device's time went. While a step runs, up to its begin."""
        return self.clocks()[0]

    def clocks(self) -> Sequence[DeviceClock]:
        """Where each device's time went. Work between steps is done by the first one."""
        with self._wake:
            return self._loop.clocks()

    def stats(self) -> EngineStats:
        with self._wake:
            scheduler = self._loop.scheduler
            return EngineStats(
                running=scheduler.running,
                waiting=scheduler.waiting,
                kv_blocks=scheduler.pool.blocks,
                kv_blocks_used=scheduler.pool.used_blocks,
                preemptions=scheduler.preemptions,
                work_model=self._loop.work_model.stats(),
                targets_kept=self._loop.kept.counts(),
                failure=str(self._failure or ""),
                **asdict(self._loop.totals),
            )

    def _check_that_it_serves(self) -> None:
        if self._failure is not None:
            raise EngineFailed(str(self._failure))
        if self._stopping:
            raise EngineOverloaded(_STOPPING)

    def _matcher(self, request: Request) -> Matcher | None:
        constraint = request.sampling.constraint
        if constraint is None:
            return None
        with self._compiling:
            if self._grammars is None:
                loaded = self._loaded
                self._grammars = Grammars(loaded.tokenizer, loaded.config.vocab_size)
        return self._grammars.matcher(constraint)

    def _serve(self) -> None:
        try:
            self._prepare()
            self._warm_up()
        except Exception as error:
            self._failure, self._stopping = self._failure or error, True
        self._warm.set()
        while not self._stopping:
            self._turn()
        if self._under_way is not None:
            last, self._under_way = self._under_way, None
            self._settle(last)
        if self._failure is None:
            self._deliver(self._end_all(FinishReason.CANCELLED))
        else:
            self._deliver(self._end_all(FinishReason.ERROR, str(self._failure)))
        self._refuse_errands(self._failure)

    def _turn(self) -> None:
        """Launch the next step, then hand out what the one before it gave; without overlap, what this one gave."""
        try:
            self._deliver(self._cancel_or_wait())
            self._do_an_errand()
            before, self._under_way = self._under_way, self._launch_next()
            if before is None and not self._overlaps:
                before, self._under_way = self._under_way, None
            if before is not None:
                self._settle(before)
        except Exception as error:
            # A fault of our own. Who waits for an answer gets one, and the next request a fresh start.
            logger.exception("the engine failed between steps")
            self._give_up(FinishReason.ERROR, f"the engine failed: {error!r}")

    def _cancel_or_wait(self) -> list[Delivery]:
        with self._wake:
            while not (self._stopping or self._to_cancel or self._has_work()):
                self._wake.wait()
            leaving, self._to_cancel = self._to_cancel, set()
            return [
                delivery for request_id in leaving for delivery in self._loop.cancel(request_id)
            ]

    def _has_work(self) -> bool:
        return (
            self._under_way is not None or len(self._loop.scheduler) > 0 or len(self._errands) > 0
        )

    def _do_an_errand(self) -> None:
        """The oldest one, if there is one, when the device is done with the step under way."""
        errand = self._next_errand()
        if errand is None:
            return
        if self._under_way is not None:
            last, self._under_way = self._under_way, None
            self._settle(last)
        with self._wake:
            self._loop.begin_work()
        outcome = errand.attempt()
        with self._wake:
            charge = self._loop.settle_errand()
        errand.done.set_result(Done(charge, outcome))

    def _next_errand(self) -> Errand[Any] | None:
        """The oldest that somebody still waits for."""
        with self._wake:
            while self._errands:
                errand = self._errands.popleft()
                if errand.done.set_running_or_notify_cancel():
                    return errand
        return None

    def _refuse_errands(self, failure: Exception | None) -> None:
        refusal = EngineOverloaded(_STOPPING) if failure is None else EngineFailed(str(failure))
        while (errand := self._next_errand()) is not None:
            errand.done.set_exception(refusal)

    def _launch_next(self) -> _UnderWay | None:
        """Without the lock: requests come and go while the device works."""
        with self._wake:
            step = self._loop.begin_step()
            if step is None and self._under_way is None and len(self._loop.scheduler):
                raise RuntimeError(f"{len(self._loop.scheduler)} requests and no step to do")
        if step is None:
            return None
        try:
            return _UnderWay(step, self._runner.launch(step.slices))
        except Exception as error:
            return _UnderWay(step, _raise(error))

    def _settle(self, before: _UnderWay) -> None:
        result = _wait(before)
        if isinstance(result, StepResult):
            with self._wake:
                deliveries = self._loop.settle_step(before.step, result)
            self._deliver(deliveries)
            return
        self._fail(before, result)
        if isinstance(result, EngineFailed):
            self.abandon(str(result))
        after, self._under_way = self._under_way, None
        if after is not None:  # it builds on what the failed one should have computed
            _wait(after)
            self._fail(after, result)

    def _fail(self, failed: _UnderWay, error: Exception) -> None:
        said = str(error) if isinstance(error, EngineFailed) else f"the step failed: {error!r}"
        with self._wake:
            deliveries = self._loop.fail_step(failed.step, said)
        self._deliver(deliveries)

    def _give_up(self, reason: FinishReason, error: str = "") -> None:
        """End every request, when the device is done with a step under way; nobody knows what for."""
        if self._under_way is not None:
            _wait(self._under_way)
            self._under_way = None
        self._deliver(self._end_all(reason, error))

    def _end_all(self, reason: FinishReason, error: str = "") -> list[Delivery]:
        with self._wake:
            return self._loop.end_all(reason, error)

    def _deliver(self, deliveries: list[Delivery]) -> None:
        """Without the lock: a listener may submit and cancel. One that fails has gone, so its request goes too."""
        for on_progress, progress in deliveries:
            try:
                on_progress(progress)
            except Exception:
                logger.exception("the listener of request '%s' failed", progress.request_id)
                self.cancel(progress.request_id)

    def _prepare(self) -> None:
        with self._wake:
            self._loop.begin_work()
        self._runner.attach()
        with self._wake:
            self._loop.settle_preparation()

    def _warm_up(self) -> None:
        pool = self._loop.scheduler.pool
        steps = warm_up_steps(
            blocks=pool.blocks,
            block_tokens=pool.block_tokens,
            max_batch_tokens=self.config.max_batch_tokens,
            max_batch_requests=self.config.max_batch_requests,
            limit=self.context_tokens,
        )
        for slices in steps:
            with self._wake:
                step = self._loop.begin_warm_up(slices)
            result = self._runner.launch(slices)()
            with self._wake:
                self._loop.settle_warm_up(step, result)
        self._loop.work_model.fit()


def _our_pids(followers: Followers | None) -> set[int]:
    return {os.getpid(), *([] if followers is None else followers.pids)}


def _check_vocabulary(loaded: LoadedModel, draft_model: Decoder) -> None:
    ours, drafts = loaded.config.vocab_size, draft_model.config.vocab_size
    if ours != drafts:
        raise ValueError(
            f"the model that proposes knows {drafts} tokens, '{loaded.name}' knows {ours}; "
            "speculation needs two models with one tokenizer"
        )


def _propose(config: EngineConfig) -> Propose:
    speculation = config.speculation
    if speculation is None:
        return no_drafts
    return (DeviceDrafts if speculation.draft_source else NGrams)(speculation.tokens)


def _pace(config: EngineConfig, work_model: WorkModel) -> Allow:
    target_ns = config.targets.inter_token_ns
    return Pace(target_ns, lambda: work_model.coefficients) if target_ns else no_limit


def _deadline(config: EngineConfig, work_model: WorkModel) -> IsAtRisk:
    target_ns = config.targets.first_token_ns
    if not target_ns:
        return no_deadline
    return Deadline(target_ns, config.max_batch_tokens, lambda: work_model.coefficients)


def _raise(error: Exception) -> Callable[[], StepResult]:
    def wait() -> StepResult:
        raise error

    return wait


def _wait(under_way: _UnderWay) -> StepResult | Exception:
    try:
        return under_way.wait()
    except Exception as error:
        logger.exception("a step of %d requests failed", len(under_way.step.slices))
        return error
