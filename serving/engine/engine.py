"""The engine: takes requests from any thread, computes steps on its own.

EngineConfig   how large it is
Engine         start, submit, cancel, clock, stats, stop
"""

import logging
import threading
from dataclasses import dataclass

from serving.engine.config import EngineConfig
from serving.engine.kv_cache import BlockPool
from serving.engine.loop import Delivery, Limits, OnProgress, Runner, Step, StepLoop, StepResult
from serving.engine.request import DeviceClock, EngineOverloaded, FinishReason, Request
from serving.engine.runner import TorchRunner, block_bytes
from serving.engine.scheduler import Scheduler
from serving.engine.warm_up import warm_up_steps
from serving.weights import LoadedModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EngineStats:
    """How full the engine is at this instant."""

    running: int
    waiting: int
    kv_blocks: int
    kv_blocks_used: int
    preemptions: int  # since the start


class Engine:
    """Runs a loaded model's steps on a thread of its own.

    on_progress is called on that thread, in the order of the tokens; it must not block. The last Progress of a
    request carries Finished, also when it failed, was cancelled, or the engine stopped. runner computes the
    steps; None makes one for the model, with a KV cache of the configured size.
    """

    def __init__(
        self, loaded: LoadedModel, config: EngineConfig, runner: Runner | None = None
    ) -> None:
        size = block_bytes(loaded.config, config.block_tokens, loaded.model.dtype)
        pool = BlockPool(config.blocks(size), config.block_tokens)
        self.config = config
        self.context_tokens = min(loaded.config.max_position_embeddings, pool.capacity_tokens)
        self._runner = runner or TorchRunner(
            loaded.model,
            blocks=pool.blocks,
            block_tokens=config.block_tokens,
            threads=config.threads,
        )
        self._loop = StepLoop(
            Scheduler(
                pool,
                max_batch_tokens=config.max_batch_tokens,
                max_batch_requests=config.max_batch_requests,
                max_waiting=config.max_waiting,
            ),
            loaded.tokenizer,
            Limits(self.context_tokens, loaded.config.vocab_size),
        )
        self._wake = threading.Condition()  # its lock guards all that follows, and the loop
        self._to_cancel: set[str] = set()
        self._stopping = False
        self._failure: Exception | None = None
        self._warm = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="engine", daemon=True)

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

    def submit(self, request: Request, on_progress: OnProgress) -> None:
        """Queue a request. Raises RequestRefused (it can't be served as it stands) or EngineOverloaded; then
        on_progress is never called."""
        with self._wake:
            if self._stopping:
                raise EngineOverloaded("the engine is stopping; try again later")
            self._loop.submit(request, on_progress)
            self._wake.notify()

    def cancel(self, request_id: str) -> None:
        """End a request soon; its Finished says CANCELLED unless it was done before. Unknown ids are ignored."""
        with self._wake:
            self._to_cancel.add(request_id)
            self._wake.notify()

    def clock(self) -> DeviceClock:
        """Where the device's time went. While a step runs, up to its begin."""
        with self._wake:
            return self._loop.clock()

    def stats(self) -> EngineStats:
        with self._wake:
            scheduler = self._loop.scheduler
            return EngineStats(
                running=scheduler.running,
                waiting=scheduler.waiting,
                kv_blocks=scheduler.pool.blocks,
                kv_blocks_used=scheduler.pool.used_blocks,
                preemptions=scheduler.preemptions,
            )

    def _serve(self) -> None:
        try:
            self._runner.attach()
            self._warm_up()
        except Exception as error:
            self._failure, self._stopping = error, True
        self._warm.set()
        while not self._stopping:
            self._turn()
        self._deliver(self._end_all(FinishReason.CANCELLED))

    def _turn(self) -> None:
        """Wait for work, do one step, hand out what it gave."""
        try:
            self._deliver(self._cancel_or_wait())
            with self._wake:
                step = self._loop.begin_step()
            if step is not None:
                self._deliver(self._settle(step, self._run(step)))
        except Exception as error:
            # A fault of our own. Who waits for an answer gets one, and the next request a fresh start.
            logger.exception("the engine failed between steps")
            self._deliver(self._end_all(FinishReason.ERROR, f"the engine failed: {error!r}"))

    def _cancel_or_wait(self) -> list[Delivery]:
        with self._wake:
            while not (self._stopping or self._to_cancel or len(self._loop.scheduler)):
                self._wake.wait()
            leaving, self._to_cancel = self._to_cancel, set()
            return [
                delivery for request_id in leaving for delivery in self._loop.cancel(request_id)
            ]

    def _run(self, step: Step) -> StepResult | Exception:
        """Without the lock: requests come and go while the device works."""
        try:
            return self._runner.run(step.slices)
        except Exception as error:
            logger.exception("a step of %d requests failed", len(step.slices))
            return error

    def _settle(self, step: Step, result: StepResult | Exception) -> list[Delivery]:
        with self._wake:
            if isinstance(result, Exception):
                return self._loop.fail_step(step, f"the step failed: {result!r}")
            return self._loop.settle_step(step, result)

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
            result = self._runner.run(slices)
            with self._wake:
                self._loop.settle_warm_up(step, result)
        self._loop.work_model.fit()
