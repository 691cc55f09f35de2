"""POST /v1/embeddings: texts in small batches, each between two of the engine's steps.

Requests take turns by batches, so that a long one does not hold up the short ones behind it, nor the answers under way for
longer than a batch. Each batch has the device to itself and is charged its time, as a step is.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse

from serving.engine.errands import Done
from serving.engine.request import EngineFailed, EngineOverloaded, Finished, FinishReason
from serving.server.call_endpoint import CallEndpoint, cancel_when_gone
from serving.server.calls import CANCELLED, Call, Desk
from serving.server.doorway import Access, Reply, check_model, not_too_deep
from serving.server.embedding_request import EmbeddingRequest, embeddings_body, read_embedding
from serving.server.errors import BadRequest, Overloaded, QueueFull, ServerFailure
from serving.server.runtime import Embedder

_MAX_TOKENS = 131_072  # in one request
_BATCH_TOKENS = 1_024  # a batch is the longest that anybody waits for the device
_BATCH_TEXTS = 32
_MAX_WAITING = 64
_METHOD = "measured"

TokenIds = Sequence[int]
Result = TypeVar("Result")


class Embeddings(CallEndpoint):
    """embedder None: there is none, and whoever asks is told so."""

    def __init__(self, desk: Desk, access: Access, embedder: Embedder | None) -> None:
        super().__init__(desk, access, "embeddings", "embd-")
        self._embedder = embedder
        self._open = 0

    async def answer(self, call: Call, request: HttpRequest, reply: Reply) -> None:
        body = await self.read(request)
        if self._embedder is None:
            raise BadRequest(
                "this server has no model for embeddings; start it with --embedder",
                code="no_embedder",
                status=404,
            )
        asked: EmbeddingRequest = not_too_deep(read_embedding, body)
        call.asked, call.model = asked, self._embedder.name
        check_model(asked.model, self._embedder.name)
        _check_dimensions(asked.dimensions, self._embedder.dimensions)
        texts = await asyncio.to_thread(_encode, asked, self._embedder)
        vectors = await self._computed(call, request, self._embedder, texts)
        tokens = sum(map(len, texts))
        whole = embeddings_body(call.model, vectors, tokens, is_base64=asked.is_base64)
        response = JSONResponse(whole, headers={"x-request-id": call.id})
        await response(request.scope, request.receive, reply)

    async def _computed(
        self, call: Call, request: HttpRequest, embedder: Embedder, texts: list[TokenIds]
    ) -> list[Sequence[float]]:
        if self._open >= _MAX_WAITING:
            raise QueueFull(
                f"{self._open} requests for embeddings are under way, which is all that there is room for; try again",
                code="queue_full",
                retry_after_seconds=1,
            )
        self._open += 1
        watch = asyncio.create_task(cancel_when_gone(request.receive, call))
        try:
            return await self._in_batches(call, embedder, texts)
        finally:
            watch.cancel()
            self._open -= 1

    async def _in_batches(
        self, call: Call, embedder: Embedder, texts: list[TokenIds]
    ) -> list[Sequence[float]]:
        """A vector for each text. The call is charged what was computed for it, also where it comes to no end."""
        bill = _Bill(call.arrived_ns)
        call.begin()
        vectors: dict[int, Sequence[float]] = {}
        try:
            for batch in batches(texts):
                if call.is_given_up:
                    raise Overloaded("the client went away", code=CANCELLED)
                found = await self._one_batch(bill, embedder, [texts[place] for place in batch])
                vectors.update(zip(batch, found, strict=True))
            bill.reason = FinishReason.STOP
        finally:
            call.finish(bill.finished())
        return [vectors[place] for place in range(len(texts))]

    async def _one_batch(
        self, bill: "_Bill", embedder: Embedder, batch: list[TokenIds]
    ) -> Sequence[Sequence[float]]:
        computing = asyncio.create_task(self._charged(bill, embedder, batch))
        try:
            return (await _to_its_end(computing)).result()
        except EngineOverloaded as overload:
            self._desk.door.check()
            raise Overloaded(str(overload), code="stopping") from overload
        except EngineFailed as failure:
            raise Overloaded(str(failure), code="engine_failed") from failure
        except ValueError as error:
            raise BadRequest(str(error), code="invalid_value", param="input") from error
        except Exception as error:
            bill.reason, bill.error = FinishReason.ERROR, repr(error)
            raise ServerFailure(f"the embedder failed: {error!r}", code="embedder_error") from error

    async def _charged(
        self, bill: "_Bill", embedder: Embedder, batch: list[TokenIds]
    ) -> Done[Sequence[Sequence[float]]]:
        """What came of the batch, which the bill has by then."""

        def work() -> Sequence[Sequence[float]]:
            bill.scheduled_ns = bill.scheduled_ns or time.monotonic_ns()
            found = embedder.embed(batch)
            bill.tokens += sum(map(len, batch))
            return found

        done = await asyncio.wrap_future(self._desk.engine.between_steps(work))
        bill.charge(done)
        return done


async def _to_its_end(running: asyncio.Future[Result]) -> Result:
    """What it gives. Who is cancelled meanwhile waits all the same: what is computed has to be charged."""
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await running
        raise


class _Bill:
    """What a call was charged so far. It was cancelled unless it is said that it ended otherwise."""

    def __init__(self, arrived_ns: int) -> None:
        self.arrived_ns = arrived_ns
        self.scheduled_ns: int | None = None
        self.tokens = self.device_ns = 0
        self.energy_uj: int | None = None
        self.on_shared_device = False
        self.reason, self.error = FinishReason.CANCELLED, ""

    def charge(self, done: Done[Any]) -> None:
        charge = done.charge
        self.device_ns += charge.device_ns
        self.on_shared_device |= charge.on_shared_device
        if charge.energy_uj is not None:
            self.energy_uj = (self.energy_uj or 0) + charge.energy_uj

    def finished(self) -> Finished:
        return Finished(
            reason=self.reason,
            prompt_tokens=self.tokens,
            output_tokens=0,
            arrived_ns=self.arrived_ns,
            scheduled_ns=self.scheduled_ns,
            first_token_ns=None,
            finished_ns=time.monotonic_ns(),
            device_ns=self.device_ns,
            device_ns_marginal=self.device_ns,
            device_ns_alone=self.device_ns,
            prefix_repeated_tokens=0,
            request_repeated=False,
            allocation_method=_METHOD,
            energy_uj=self.energy_uj,
            on_shared_device=self.on_shared_device,
            error=self.error,
        )


def batches(texts: Sequence[TokenIds]) -> Iterator[list[int]]:
    """Places of texts, those of like length together, so that little is padded. Every place comes once."""
    batch: list[int] = []
    for place in sorted(range(len(texts)), key=lambda place: len(texts[place])):
        padded_tokens = (len(batch) + 1) * len(texts[place])
        if batch and (len(batch) == _BATCH_TEXTS or padded_tokens > _BATCH_TOKENS):
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def _encode(asked: EmbeddingRequest, embedder: Embedder) -> list[TokenIds]:
    """Raises BadRequest where a text, or all of them, are too long."""
    texts: list[TokenIds] = [
        embedder.encode(text) if isinstance(text, str) else text for text in asked.texts
    ]
    for place, token_ids in enumerate(texts):
        if len(token_ids) > embedder.max_tokens:
            raise BadRequest(
                f"input[{place}] has {len(token_ids)} tokens and the model reads {embedder.max_tokens}; shorten it",
                code="context_length_exceeded",
                param="input",
            )
    tokens = sum(map(len, texts))
    if tokens > _MAX_TOKENS:
        raise BadRequest(
            f"input has {tokens} tokens and one request may have {_MAX_TOKENS}; send several requests",
            code="invalid_value",
            param="input",
        )
    return texts


def _check_dimensions(wanted: int | None, given: int) -> None:
    if wanted not in (None, given):
        raise BadRequest(
            f"dimensions={wanted}: this model gives {given}; leave it out",
            code="unsupported_parameter",
            param="dimensions",
        )


__all__ = ["Embeddings", "batches"]
