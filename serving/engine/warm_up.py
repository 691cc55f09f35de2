"""Steps for nobody, before the first request: they wake the device up and teach the work model every kind of step."""

from collections.abc import Iterator

from serving.engine.request import SamplingParams
from serving.engine.slices import Slice

_PREFILL_TOKENS = (16, 48, 96, 192)
_DECODE_REQUESTS = (1, 2, 4, 8)
_DECODE_CONTEXTS = (16, 384)
_GREEDY = SamplingParams(max_tokens=1, temperature=0.0)


def warm_up_steps(
    *, blocks: int, block_tokens: int, max_batch_tokens: int, max_batch_requests: int, limit: int
) -> Iterator[list[Slice]]:
    """Prompts of several lengths, then answers of several batch sizes and contexts, as far as they fit.

    The blocks that these write belong to nobody yet. limit is the longest context of one request.
    The first kind comes once more at the beginning: what a device does only once belongs to no fit.
    """
    longest = min(limit, blocks * block_tokens, max_batch_tokens)
    prompts = [min(tokens, longest) for tokens in _PREFILL_TOKENS]
    for tokens in (prompts[0], *prompts, *prompts):
        yield [_slice("warm-up", range(-(-tokens // block_tokens)), 0, tokens)]
    for requests in (*_DECODE_REQUESTS, *_DECODE_REQUESTS):
        for context in _DECODE_CONTEXTS:
            count = min(requests, max_batch_requests)
            yield list(_decodes(count, min(context, limit), blocks, block_tokens))


def _decodes(requests: int, context: int, blocks: int, block_tokens: int) -> Iterator[Slice]:
    per_request = max(1, min(-(-context // block_tokens), blocks // requests))
    for index in range(min(requests, blocks)):
        table = range(index * per_request, (index + 1) * per_request)
        start = min(context, per_request * block_tokens) - 1
        yield _slice(f"warm-up-{index}", table, start, 1)


def _slice(request_id: str, table: range, start: int, tokens: int) -> Slice:
    return Slice(
        request_id=request_id,
        token_ids=(0,) * tokens,
        start=start,
        block_table=tuple(table),
        samples=True,
        is_decode=start > 0,
        sampling=_GREEDY,
        seed=0,
        position=0,
    )
