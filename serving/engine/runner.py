"""Runs a step on the device, and says how long the device took."""

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from serving.engine.loop import StepResult
from serving.engine.sampler import sample
from serving.engine.scheduler import Slice
from serving.engine.step import step_tensors
from serving.layers.attention import LayerCache
from serving.models.llama import Llama, LlamaConfig


def block_bytes(config: LlamaConfig, block_tokens: int, dtype: torch.dtype) -> int:
    """What one block of the KV cache takes over all layers."""
    numbers = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    return numbers * block_tokens * dtype.itemsize


class TorchRunner:
    """A model and its paged KV cache."""

    def __init__(self, model: Llama, *, blocks: int, block_tokens: int, threads: int) -> None:
        self._model = model
        self._block_tokens = block_tokens
        self._threads = threads
        self._scratch_slot = blocks * block_tokens  # first of one block more than the tables know
        self._pad_to = rows_multiple(model)
        self._caches = _caches(model, blocks + 1, block_tokens)

    def attach(self) -> None:
        """Bind to the calling thread, which is to run the steps."""
        torch.set_num_threads(self._threads)

    @torch.inference_mode()
    def run(self, slices: Sequence[Slice]) -> StepResult:
        """Compute the slices. Returns the tokens of those that sample, and the step's time on the device."""
        timer = _timer(self._model.device)
        step = step_tensors(
            slices,
            block_tokens=self._block_tokens,
            scratch_slot=self._scratch_slot,
            pad_to=self._pad_to,
            device=self._model.device,
        )
        hidden = self._model(step.token_ids, step.positions, self._caches, step.batch)
        sampling = [part for part in slices if part.samples]
        tokens = self._sample(hidden, step.sampled_rows, sampling) if sampling else []
        ids = (part.request_id for part in sampling)
        return StepResult(dict(zip(ids, tokens, strict=True)), timer.stop_ns())

    def _sample(self, hidden: Tensor, rows: Tensor, slices: Sequence[Slice]) -> list[int]:
        logits = self._model.logits(hidden[rows])
        return sample(logits[: len(slices)], slices)


def rows_multiple(model: Llama) -> int:
    """A step's rows are padded to a multiple of this, so that no answer depends on who else is in the step.

    fp32 products on a CPU differ in their last bits between heights that are no multiple of 4; bf16 ones do not.
    """
    return 4 if model.dtype == torch.float32 and model.device.type == "cpu" else 1


def _caches(model: Llama, blocks: int, block_tokens: int) -> list[LayerCache]:
    config = model.config
    shape = (blocks, block_tokens, config.num_key_value_heads, config.head_dim)

    def zeros() -> Tensor:
        return torch.zeros(shape, dtype=model.dtype, device=model.device)

    return [LayerCache(zeros(), zeros()) for _ in range(config.num_hidden_layers)]


class _ClockTimer:
    """A CPU works while we wait for it: the monotonic clock is its time."""

    def __init__(self) -> None:
        self._began_ns = time.monotonic_ns()

    def stop_ns(self) -> int:
        return time.monotonic_ns() - self._began_ns


class _EventTimer:
    """A GPU's own clock. Tokens have arrived when this is stopped, so there is next to nothing to wait for."""

    def __init__(self) -> None:
        self._began, self._ended = _event(), _event()
        self._began.record()

    def stop_ns(self) -> int:
        self._ended.record()
        self._ended.synchronize()
        elapsed_ms: float = self._began.elapsed_time(self._ended)
        return round(elapsed_ms * 1e6)


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _timer(device: torch.device) -> _ClockTimer | _EventTimer:
    return _EventTimer() if device.type == "cuda" else _ClockTimer()
