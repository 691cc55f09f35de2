"""Runs steps on the device, and says how long the device took."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from serving.engine.loop import StepResult
from serving.engine.request import TokenLogprob
from serving.engine.sampler import Chosen, Row, choose
from serving.engine.scheduler import Slice
from serving.engine.step import Earlier, StepTensors, step_tensors
from serving.layers.attention import LayerCache
from serving.models.config import DecoderConfig
from serving.models.decoder import Decoder

_SCALE_BYTES = 4


def cache_dtype(name: str, model_dtype: torch.dtype) -> torch.dtype:
    """What EngineConfig.kv_cache_dtype names."""
    return {"auto": model_dtype, "int8": torch.int8, "fp8": torch.float8_e4m3fn}[name]


def block_bytes(config: DecoderConfig, block_tokens: int, dtype: torch.dtype) -> int:
    """What one block of a KV cache of dtype takes over all layers."""
    scales = _SCALE_BYTES if dtype == torch.int8 else 0
    vectors = 2 * config.num_hidden_layers * config.num_key_value_heads
    return vectors * (config.head_dim * dtype.itemsize + scales) * block_tokens


class PagedModel:
    """A model and its paged KV cache: one block more than the tables know, for padding rows."""

    def __init__(
        self, model: Decoder, *, blocks: int, block_tokens: int, cache_dtype: torch.dtype
    ) -> None:
        self.model = model
        self._blocks = blocks
        self._block_tokens = block_tokens
        self._pad_to = rows_multiple(model)
        self._caches = _caches(model, blocks + 1, block_tokens, cache_dtype)

    def compute(
        self, slices: Sequence[Slice], earlier: Earlier | None
    ) -> tuple[Tensor, StepTensors]:
        """Logits of the rows after which a token is chosen, and the step; keys and values go to the cache."""
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
            return hidden[:0], step
        count = sum(part.drafts + 1 for part in step.sampling)
        logits = self.model.logits(hidden[step.sampled_rows])
        return logits[:count], step


class TorchRunner:
    """A model on its device; draft_model, if there is one, proposes where slices leave places for drafts."""

    def __init__(
        self,
        model: Decoder,
        *,
        blocks: int,
        block_tokens: int,
        threads: int,
        cache_dtype: torch.dtype,
        draft_model: Decoder | None = None,
    ) -> None:
        self._paged, *drafting = (
            PagedModel(each, blocks=blocks, block_tokens=block_tokens, cache_dtype=cache_dtype)
            for each in (model, draft_model)
            if each is not None
        )
        self._drafter = Drafter(drafting[0]) if drafting else None
        self._threads = threads
        self._earlier: Earlier | None = None

    def attach(self) -> None:
        """Bind to the calling thread, which is to run the steps."""
        torch.set_num_threads(self._threads)

    @torch.inference_mode()
    def launch(self, slices: Sequence[Slice]) -> Callable[[], StepResult]:
        """Begin to compute the slices; what comes back waits for the tokens and for the step's time."""
        timer = _timer(self._paged.model.device)
        drafts: Mapping[str, Sequence[int]] = {}
        if self._drafter is not None:
            drafts = self._drafter.propose(slices, self._earlier)
            slices = [_with_drafts(part, drafts) for part in slices]
        logits, step = self._paged.compute(slices, self._earlier)
        rows = [row for part in step.sampling for row in _rows(part)]
        chosen = choose(logits, rows) if rows else None
        self._earlier = _earlier(step.sampling, chosen)
        stop_ns = timer.stop()
        return lambda: _result(step.sampling, chosen, drafts, stop_ns())


class Drafter:
    """A small model that computes every token that the large one does, in blocks of the same numbers, so that it always
    knows what came before."""

    def __init__(self, paged: PagedModel) -> None:
        self._paged = paged

    def propose(self, slices: Sequence[Slice], earlier: Earlier | None) -> dict[str, Sequence[int]]:
        """Its most probable tokens in the places for drafts, by request id."""
        drafts: dict[str, list[int]] = {part.request_id: [] for part in slices if part.drafts}
        logits, step = self._paged.compute([_without_drafts(part) for part in slices], earlier)
        most = max((part.drafts for part in slices), default=0)
        # One round more than there are drafts: the last draft's keys and values are needed if it is kept.
        for place in range(most):
            best = logits.argmax(dim=-1).tolist() if step.sampling else []
            for part, token_id in zip(step.sampling, best, strict=True):
                if part.request_id in drafts:
                    drafts[part.request_id].append(token_id)
            going_on = [
                _at_draft(part, place, drafts[part.request_id][place])
                for part in slices
                if part.drafts > place
            ]
            logits, step = self._paged.compute(going_on, None)
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
