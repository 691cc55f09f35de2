"""Runs steps on the device, and says how long the device took."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from serving.engine.graphs import DecodeGraphs
from serving.engine.loop import StepResult
from serving.engine.request import TokenLogprob
from serving.engine.sampler import Chosen, Row, choose
from serving.engine.scheduler import Slice
from serving.engine.step import Earlier, decode_batch, step_tensors
from serving.kernels.cores import pin
from serving.layers.attention import LayerCache
from serving.models.config import DecoderConfig
from serving.models.decoder import Decoder

logger = logging.getLogger(__name__)

_SCALE_BYTES = 4
# Room for a row's table and for the pieces of its attention is taken for every row of a replayed step; steps with a longer
# context are launched kernel by kernel, which they take long enough for.
_WIDEST_REPLAYED_TABLE = 1_024


def cache_dtype(name: str, model_dtype: torch.dtype) -> torch.dtype:
    """What EngineConfig.kv_cache_dtype names."""
    return {"auto": model_dtype, "int8": torch.int8, "fp8": torch.float8_e4m3fn}[name]


def block_bytes(config: DecoderConfig, block_tokens: int, dtype: torch.dtype) -> int:
    """What one block of a KV cache of dtype takes over all layers."""
    scales = _SCALE_BYTES if dtype == torch.int8 else 0
    vectors = 2 * config.num_hidden_layers * config.num_key_value_heads
    return vectors * (config.head_dim * dtype.itemsize + scales) * block_tokens


@dataclass(frozen=True, slots=True)
class Computed:
    """logits of the rows after which slices of `sampling` choose, one behind the other; most_probable where it is known."""

    logits: Tensor
    sampling: Sequence[Slice]
    most_probable: Tensor | None = None


class PagedModel:
    """A model and its paged KV cache: one block more than the tables know, for padding rows.

    max_requests   rows of the largest step that is replayed as a whole (see graphs.py); 0: none is.
    """

    def __init__(
        self,
        model: Decoder,
        *,
        blocks: int,
        block_tokens: int,
        cache_dtype: torch.dtype,
        max_requests: int = 0,
    ) -> None:
        self.model = model
        self._blocks = blocks
        self._block_tokens = block_tokens
        self._pad_to = rows_multiple(model)
        self._caches = _caches(model, blocks + 1, block_tokens, cache_dtype)
        self._graphs: DecodeGraphs | None = None
        if max_requests:
            context_blocks = -(-model.config.max_position_embeddings // block_tokens)
            widest = min(blocks, context_blocks, _WIDEST_REPLAYED_TABLE)
            self._graphs = DecodeGraphs(
                model,
                self._caches,
                max_requests=max_requests,
                max_blocks=widest,
                block_tokens=block_tokens,
                scratch_slot=blocks * block_tokens,
            )

    def prepare(self) -> None:
        """Record the steps that are to be replayed, if any."""
        if self._graphs is not None:
            logger.info("captured %s", self._graphs.capture())

    def compute(self, slices: Sequence[Slice], earlier: Earlier | None) -> Computed:
        """Logits of the rows after which a token is chosen; keys and values go to the cache."""
        if self._graphs is None or not _fits(self._graphs, slices):
            return self._compute(slices, earlier)
        places = earlier.places if earlier is not None else {}
        batch = decode_batch(slices, block_tokens=self._block_tokens, places=places)
        decoded = self._graphs.run(batch)
        return Computed(decoded.logits, slices, decoded.token_ids)

    def remember(self, token_ids: Tensor) -> None:
        """These tokens were chosen after the last step, where they are not the most probable ones of a replayed one."""
        if self._graphs is not None:
            self._graphs.remember(token_ids)

    def _compute(self, slices: Sequence[Slice], earlier: Earlier | None) -> Computed:
        step = step_tensors(
            slices,
            block_tokens=self._block_tokens,
            scratch_block=self._blocks,
            pad_to=self._pad_to,
            device=self.model.device,
            earlier=earlier,
        )
        hidden = self.model(step.token_ids, step.positions, self._caches, step.batch)
        if not step.sampling:
            return Computed(hidden[:0], ())
        count = sum(part.drafts + 1 for part in step.sampling)
        return Computed(self.model.logits(hidden[step.sampled_rows])[:count], step.sampling)


def _fits(graphs: DecodeGraphs, slices: Sequence[Slice]) -> bool:
    rows = sum(len(part.token_ids) for part in slices)
    widest = max(len(part.block_table) for part in slices)
    return all(part.is_decode for part in slices) and graphs.has_room_for(rows, widest)


class TorchRunner:
    """A model on its device; draft_model, if there is one, proposes where slices leave places for drafts."""

    def __init__(
        self,
        model: Decoder,
        *,
        blocks: int,
        block_tokens: int,
        threads: int,
        cores: Sequence[int] = (),
        cache_dtype: torch.dtype,
        draft_model: Decoder | None = None,
        replayed_requests: int = 0,
    ) -> None:
        self._paged, *drafting = (
            PagedModel(
                each,
                blocks=blocks,
                block_tokens=block_tokens,
                cache_dtype=cache_dtype,
                max_requests=replayed_requests,
            )
            for each in (model, draft_model)
            if each is not None
        )
        self._drafter = Drafter(drafting[0]) if drafting else None
        self._threads = threads
        self._cores = cores
        self._earlier: Earlier | None = None

    def attach(self) -> None:
        """Bind to the calling thread, which is to run the steps."""
        torch.set_num_threads(self._threads)
        if self._cores:
            pin(self._cores)
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
        computed = self._paged.compute(slices, self._earlier)
        chosen = self._choose(computed)
        self._earlier = _earlier(computed.sampling, chosen)
        on_host = None if chosen is None else chosen.to_host()
        stop_ns = timer.stop()
        return lambda: _result(computed.sampling, on_host, drafts, stop_ns())

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


def _earlier(sampling: Sequence[Slice], chosen: Chosen | None) -> Earlier | None:
    """Tokens that the next step may need before they are known here; drafts are never needed so early."""
    if chosen is None:
        return None
    places: dict[str, int] = {}
    row = 0
    for part in sampling:
        places[part.request_id] = row
        row += part.drafts + 1
    return Earlier(chosen.token_ids, places)


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


def rows_multiple(model: Decoder) -> int:
    """A step's rows are padded to a multiple of this, so that no answer depends on who else is in the step.

    fp32 products on a CPU differ in their last bits between heights that are no multiple of 4; bf16 ones do not.
    """
    return 4 if model.dtype == torch.float32 and model.device.type == "cpu" else 1


def _caches(model: Decoder, blocks: int, block_tokens: int, dtype: torch.dtype) -> list[LayerCache]:
    config = model.config
    vectors = (blocks, block_tokens, config.num_key_value_heads)

    def zeros(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        return torch.zeros(tuple(shape), dtype=dtype, device=model.device)

    def one_layer() -> LayerCache:
        keys, values = (zeros((*vectors, config.head_dim), dtype) for _ in range(2))
        if dtype != torch.int8:
            return LayerCache(keys, values)
        return LayerCache(keys, values, *(zeros(vectors, torch.float32) for _ in range(2)))

    return [one_layer() for _ in range(config.num_hidden_layers)]


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
