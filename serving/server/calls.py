"""A call on its way through the server: from the door until nothing of it is left in the engine.

    Desk    opens calls, and knows which are open
    Call    one HTTP request; records exactly one span, when it is closed and the engine has let go of it

Everything here runs on the server's event loop, but for the handing over of a request that takes long. The engine
reports from its own thread; its reports are carried over.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from serving.engine.request import (
    CompilerBusy,
    EngineFailed,
    EngineOverloaded,
    Finished,
    FinishReason,
    Objective,
    Progress,
    Request,
    RequestRefused,
    SamplingParams,
)
from serving.server.admission import Door
from serving.server.answers import Usage
from serving.server.errors import ApiError, BadRequest, Overloaded, QueueFull, ServerFailure
from serving.server.mailbox import Mailbox
from serving.server.runtime import Engine
from serving.server.spans import Asked, CallRecord

_RETRY_AFTER_SECONDS = 2
_FORMS_AT_ONCE = (
    16  # twice as many as may wait for the compiler: the others are known already, and take no time
)
CANCELLED = "cancelled"

News = tuple[int, Progress]  # what a step gave to one of a call's answers, and to which


class Observer(Protocol):
    """Is told of every step of every answer, and of its end."""

    def progressed(self, progress: Progress, tokens_before: int, since_ns: int) -> None:
        """tokens_before tokens had come before; since_ns passed since the last of them, or since the arrival."""

    def finished(self, finished: Finished) -> None: ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """One answer to compute. prompt counts the prompts of a call: answers with the same one have its tokens."""

    prompt: int
    token_ids: Sequence[int]
    sampling: SamplingParams


@dataclass(frozen=True, slots=True)
class Turn:
    """Whose turn a call takes: which team's, for what, and how soon among that team's."""

    team: str = ""
    objective: Objective = Objective.INTERACTIVE
    priority: int = 0


class Desk:
    """Opens calls on an engine. record is called once for each of them, on the event loop, when it is over."""

    def __init__(
        self,
        engine: Engine,
        model: str,
        record: Callable[[CallRecord], None],
        door: Door,
        observers: Sequence[Observer] = (),
    ) -> None:
        self.engine, self.model, self.record = engine, model, record
        self.door, self.observers = door, observers
        self.mailbox = Mailbox()
        # of its own: who brings a form that takes long to compile must not keep others from the tokenizer
        self.forms = ThreadPoolExecutor(_FORMS_AT_ONCE, thread_name_prefix="forms")
        self._open: set[Call] = set()
        self._all_over = asyncio.Event()

    @property
    def open_calls(self) -> int:
        return len(self._open)

    def open(self, operation: str, id_prefix: str, headers: Mapping[str, str]) -> "Call":
        self.mailbox.open()
        call = Call(self, operation, id_prefix, headers)
        self._open.add(call)
        return call

    def over(self, call: "Call", record: CallRecord) -> None:
        self._open.discard(call)
        self.record(record)
        if not self._open:
            self._all_over.set()

    async def drain(self, wait_seconds: float) -> None:
        """Cancel what is open and wait until the engine has let go of it; then record what it never let go of."""
        for call in tuple(self._open):
            call.close()
        if self._open:
            self._all_over.clear()
            try:
                await asyncio.wait_for(self._all_over.wait(), wait_seconds)
            except TimeoutError:
                for call in tuple(self._open):
                    call.abandon()
        self.forms.shutdown(wait=False, cancel_futures=True)


@dataclass(slots=True)
class _Work:
    """An answer that the engine works on. last_ns is when its last token came, or when it arrived."""

    index: int
    last_ns: int
    tokens: int = 0


class Call:
    """One HTTP request. Whoever opened it closes it, however it went."""

    def __init__(
        self, desk: Desk, operation: str, id_prefix: str, headers: Mapping[str, str]
    ) -> None:
        self.arrived_ns, self.arrived_unix_ns = time.monotonic_ns(), time.time_ns()
        self.id = id_prefix + uuid.uuid4().hex
        self.model = desk.model
        self.is_given_up = False  # nobody waits for the answer any more
        self.asked: Asked | None = None
        self._operation, self._headers, self._desk = operation, headers, desk
        self._arrived = asyncio.Event()
        self._news: list[News] = []
        self._wanted: Sequence[Wanted] = ()
        self._working: dict[str, _Work] = {}  # by the engine's request ids
        self._finished: dict[int, Finished] = {}
        self._failure: ApiError | None = None
        self._is_closed = self._is_recorded = False

    async def submit(self, wanted: Sequence[Wanted], turn: Turn) -> None:
        """Hand the answers to the engine. Raises ApiError; what was handed over by then is cancelled by close()."""
        self._wanted = wanted
        for index, each in enumerate(wanted):
            request_id = self.id if len(wanted) == 1 else f"{self.id}-{index}"
            request = Request(
                request_id,
                each.token_ids,
                each.sampling,
                self.arrived_ns,
                turn.team,
                turn.objective,
                turn.priority,
            )
            await self._submit_one(index, request)

    async def _submit_one(self, index: int, request: Request) -> None:
        self._working[request.request_id] = _Work(index, self.arrived_ns)
        try:
            if request.sampling.constraint is None:
                self._hand_over(index, request)
            else:
                # a grammar that is new takes a second to compile, in which others want their tokens
                forms = self._desk.forms
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(forms, self._hand_over, index, request)
        except RequestRefused as refusal:
            raise BadRequest(str(refusal), code="request_refused") from refusal
        except EngineFailed as failure:
            raise Overloaded(str(failure), code="engine_failed") from failure
        except CompilerBusy as busy:
            self._desk.door.check()
            raise QueueFull(
                str(busy), code="queue_full", retry_after_seconds=_RETRY_AFTER_SECONDS
            ) from busy
        except EngineOverloaded as overload:
            self._desk.door.check()
            raise self._desk.door.turned_away() from overload

    def _hand_over(self, index: int, request: Request) -> None:
        """From any thread: nobody may be waiting for what becomes of it any more."""
        mailbox = self._desk.mailbox

        def on_progress(progress: Progress) -> None:
            mailbox.put(self._take, (index, progress))

        try:
            self._desk.engine.submit(request, on_progress)
        except Exception:
            mailbox.put(self._let_go, request.request_id)
            raise
        if self._is_closed:
            self._desk.engine.cancel(request.request_id)

    def _let_go(self, request_id: str) -> None:
        self._working.pop(request_id, None)
        self._record_when_over()

    def _take(self, news: News) -> None:
        index, progress = news
        self._observe(progress)
        self._news.append(news)
        self._arrived.set()
        if progress.finished is not None:
            self._finished[index] = progress.finished
            self._let_go(progress.request_id)

    def _observe(self, progress: Progress) -> None:
        work = self._working.get(progress.request_id)
        if work is not None and progress.token_ids:
            now_ns = time.monotonic_ns()
            for observer in self._desk.observers:
                observer.progressed(progress, work.tokens, now_ns - work.last_ns)
            work.tokens, work.last_ns = work.tokens + len(progress.token_ids), now_ns
        if progress.finished is not None:
            self._desk.door.finished(progress.finished)
            for observer in self._desk.observers:
                observer.finished(progress.finished)

    async def news(self) -> AsyncIterator[Sequence[News]]:
        """What the engine says, all that has come since the last time, until every answer has finished.

        Raises ApiError where one did not go well.
        """
        left = len(self._wanted)
        while left:
            await self._arrived.wait()
            self._arrived.clear()
            found, self._news = self._news, []
            for place, (_, progress) in enumerate(found):
                failure = progress.finished and failure_of(progress.finished)
                if failure:
                    yield found[:place]
                    raise failure
                left -= progress.finished is not None
            yield found

    def used(self) -> Usage:
        """What has finished took. A prompt counts once, with what its first answer found in the cache."""
        first = {
            self._wanted[index].prompt: index for index in sorted(self._finished, reverse=True)
        }
        prompts = [self._finished[index] for index in first.values()]
        return Usage(
            prompt_tokens=sum(each.prompt_tokens for each in prompts),
            output_tokens=sum(each.output_tokens for each in self._finished.values()),
            cached_tokens=sum(each.cached_tokens for each in prompts),
        )

    def begin(self) -> None:
        """Something else than the engine computes the answer, until finish()."""
        self._working[self.id] = _Work(0, self.arrived_ns)

    def finish(self, finished: Finished) -> None:
        self._finished[0] = finished
        self._let_go(self.id)

    def fail(self, failure: ApiError) -> None:
        """Say why there is no answer. The first reason counts."""
        self._failure = self._failure or failure

    def cancel(self) -> None:
        self.is_given_up = True
        for request_id in tuple(self._working):
            self._desk.engine.cancel(request_id)

    def close(self) -> None:
        """Nobody waits any longer: cancel what still runs, and record the call as soon as nothing does."""
        if not self._is_closed:
            self._is_closed = True
            self._ended_ns = time.monotonic_ns()
            self.cancel()
            self._record_when_over()

    def abandon(self) -> None:
        """Record the call although the engine still holds it; for the end of the process only."""
        self.fail(ServerFailure("the engine did not let go of the request", code="engine_lost"))
        self._working.clear()
        self._record_when_over()

    def _record_when_over(self) -> None:
        if self._is_closed and not self._working and not self._is_recorded:
            self._is_recorded = True
            self._desk.over(self, self._record())

    def _record(self) -> CallRecord:
        finished = tuple(self._finished[index] for index in sorted(self._finished))
        error_type, error_message = self._how_it_went(finished)
        ended_ns = max((each.finished_ns for each in finished), default=self._ended_ns)
        return CallRecord(
            operation=self._operation,
            headers=self._headers,
            arrived_unix_ns=self.arrived_unix_ns,
            duration_ns=max(ended_ns - self.arrived_ns, 0),
            asked=self.asked,
            response_id=self.id,
            response_model=self.model,
            # what was read, and not what OpenAI's usage says: each answer read its prompt
            prompt_tokens=sum(each.prompt_tokens for each in finished),
            finished=finished,
            error_type=error_type,
            error_message=error_message,
        )

    def _how_it_went(self, finished: Sequence[Finished]) -> tuple[str, str]:
        if self._failure is not None:
            return self._failure.code, self._failure.message
        for each in finished:
            failure = failure_of(each)
            if failure is not None:
                return failure.code, failure.message
        if not finished:
            return CANCELLED, "the client went away before anything was computed"
        return "", ""


def failure_of(finished: Finished) -> ApiError | None:
    """What to tell the client, who may have gone, of an answer that did not come to its end; None where it did."""
    if finished.reason is FinishReason.ERROR:
        return ServerFailure(f"the engine failed: {finished.error}", code="engine_error")
    if finished.reason is FinishReason.CANCELLED:
        return Overloaded(
            "cancelled before it was answered in full: the client went away, or the server shuts down",
            code=CANCELLED,
            retry_after_seconds=_RETRY_AFTER_SECONDS,
        )
    return None


__all__ = ["CANCELLED", "Call", "Desk", "News", "Observer", "Turn", "Wanted", "failure_of"]
