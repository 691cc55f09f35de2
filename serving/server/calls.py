"""A call on its way through the server: from the door until nothing of it is left in the engine.

    Desk    opens calls, and knows which are open
    Call    one HTTP request; records exactly one span, when it is closed and the engine has let go of it

Everything here runs on the server's event loop. The engine reports from its own thread; its reports are carried over.
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from serving.engine.request import (
    EngineOverloaded,
    Finished,
    FinishReason,
    Progress,
    Request,
    RequestRefused,
    SamplingParams,
)
from serving.server.answers import Endpoint
from serving.server.errors import ApiError, BadRequest, Overloaded, ServerFailure
from serving.server.runtime import Engine
from serving.server.spans import Asked, CallRecord

_RETRY_AFTER_SECONDS = 2
CANCELLED = "cancelled"


News = tuple[int, Progress]  # what a step gave to one of a call's prompts, and to which


class Desk:
    """Opens calls on an engine. record is called once for each of them, on the event loop, when it is over."""

    def __init__(self, engine: Engine, model: str, record: Callable[[CallRecord], None]) -> None:
        self.engine, self.model, self.record = engine, model, record
        self._open: set[Call] = set()
        self._all_over = asyncio.Event()

    def open(self, endpoint: Endpoint, headers: Mapping[str, str]) -> "Call":
        call = Call(self, endpoint, headers)
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


class Call:
    """One HTTP request. Whoever opened it closes it, however it went."""

    def __init__(self, desk: Desk, endpoint: Endpoint, headers: Mapping[str, str]) -> None:
        self.arrived_ns, self.arrived_unix_ns = time.monotonic_ns(), time.time_ns()
        self.endpoint, self._headers, self._desk = endpoint, headers, desk
        self.id = endpoint.id_prefix + uuid.uuid4().hex
        self.asked: Asked | None = None
        self._loop = asyncio.get_running_loop()
        self._news: asyncio.Queue[News] = asyncio.Queue()
        self._working: dict[str, int] = {}  # the engine's request ids → index of the prompt
        self._finished: dict[int, Finished] = {}
        self._failure: ApiError | None = None
        self._is_closed = self._is_recorded = False

    def submit(self, prompts: Sequence[Sequence[int]], sampling: Sequence[SamplingParams]) -> None:
        """Hand the prompts to the engine. Raises ApiError; what was handed over by then is cancelled by close()."""
        for index, (token_ids, how) in enumerate(zip(prompts, sampling, strict=True)):
            request_id = self.id if len(prompts) == 1 else f"{self.id}-{index}"
            self._submit_one(index, Request(request_id, token_ids, how, self.arrived_ns))

    def _submit_one(self, index: int, request: Request) -> None:
        def on_progress(progress: Progress) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: a second Ctrl-C
                self._loop.call_soon_threadsafe(self._take, (index, progress))

        try:
            self._desk.engine.submit(request, on_progress)
        except RequestRefused as refusal:
            raise BadRequest(str(refusal), code="request_refused") from refusal
        except EngineOverloaded as overload:
            raise Overloaded(
                str(overload), code="overloaded", retry_after_seconds=_RETRY_AFTER_SECONDS
            ) from overload
        self._working[request.request_id] = index

    def _take(self, news: News) -> None:
        index, progress = news
        if progress.finished is not None:
            self._finished[index] = progress.finished
            self._working.pop(progress.request_id, None)
        self._news.put_nowait(news)
        self._record_when_over()

    async def news(self) -> AsyncIterator[News]:
        """What the engine says, until every prompt has finished. Raises ApiError where one did not go well."""
        left = len(self._working) + len(self._finished)
        while left:
            index, progress = await self._news.get()
            if progress.finished is not None:
                left -= 1
                failure = failure_of(progress.finished)
                if failure is not None:
                    raise failure
            yield index, progress

    def usage_tokens(self) -> tuple[int, int]:
        """(prompt tokens, output tokens) of what has finished."""
        finished = self._finished.values()
        return (
            sum(each.prompt_tokens for each in finished),
            sum(each.output_tokens for each in finished),
        )

    def fail(self, failure: ApiError) -> None:
        """Say why there is no answer. The first reason counts."""
        self._failure = self._failure or failure

    def cancel(self) -> None:
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
            operation=self.endpoint.operation,
            headers=self._headers,
            arrived_unix_ns=self.arrived_unix_ns,
            duration_ns=max(ended_ns - self.arrived_ns, 0),
            asked=self.asked,
            response_id=self.id,
            response_model=self._desk.model,
            prompt_tokens=self.usage_tokens()[0],
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


__all__ = ["CANCELLED", "Call", "Desk", "News"]
