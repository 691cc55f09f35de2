"""A model over its paged KV cache: plans of steps, and what the device makes of them.

PagedModel   plans steps of slices, and runs plans
Plan         a step as numbers, from which any rank can compute it
Computed     a step's logits; Earlier: what the step before it chose
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from serving.engine.graphs import FROM_HOST, DecodeGraphs, HostBatch
from serving.engine.slices import Slice
from serving.engine.step import HostStep, decode_batch, host_step, in_order, step_tensors
from serving.kernels.capability import check_fp8
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


Plan = HostBatch | HostStep  # a step as numbers: replayed, or launched kernel by kernel


@dataclass(frozen=True, slots=True)
class Earlier:
    """Tokens that the step before this one chose, still on the device; places by request id.

    drawn   False: they are the most probable ones of a replayed step, which every rank has
    """

    token_ids: Tensor
    places: Mapping[str, int]
    drawn: bool = True

    def drawn_for(self, plan: Plan) -> Tensor | None:
        """The tokens, if only this rank has them and the others need them for the plan."""
        if isinstance(plan, HostBatch):
            is_needed = bool((plan.sources != FROM_HOST).any())
        else:
            is_needed = plan.coming.size > 0
        return self.token_ids if self.drawn and is_needed else None


@dataclass(frozen=True, slots=True)
class Computed:
    """logits of the rows after which slices of `sampling` choose, one behind the other; most_probable where it is known."""

    logits: Tensor
    sampling: Sequence[Slice]
    most_probable: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PagedSizes:
    """How large a PagedModel is.

    blocks         of the KV cache that tables may name; one more is for padding rows.
    max_requests   rows of the largest step that is replayed as a whole (see graphs.py); 0: none is.
    """

    blocks: int
    block_tokens: int
    cache_dtype: torch.dtype
    max_requests: int = 0


class PagedModel:
    """A model and its paged KV cache. Each rank has one, and runs the same plans over it."""

    def __init__(self, model: Decoder, sizes: PagedSizes) -> None:
        self.model, self._sizes = model, sizes
        self._pad_to = rows_multiple(model)
        self._caches = _caches(model, sizes.blocks + 1, sizes.block_tokens, sizes.cache_dtype)
        self._graphs = _graphs(model, self._caches, sizes) if sizes.max_requests else None

    def prepare(self) -> None:
        """Record the steps that are to be replayed, if any. On the thread that is to run the steps."""
        if self.model.device.type == "cuda":
            # Triton launches on the thread's device, wherever its tensors lie.
            torch.cuda.set_device(self.model.device)
        if self._graphs is not None:
            logger.info("captured %s", self._graphs.capture())

    def plan(self, slices: Sequence[Slice], earlier: Earlier | None) -> Plan:
        places = earlier.places if earlier is not None else {}
        block_tokens = self._sizes.block_tokens
        if self._graphs is not None and _fits(self._graphs, slices):
            return decode_batch(slices, block_tokens=block_tokens, places=places)
        return host_step(
            slices,
            block_tokens=block_tokens,
            scratch_block=self._sizes.blocks,
            pad_to=self._pad_to,
            places=places,
        )

    def run(self, plan: Plan, chosen: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Compute a step; keys and values go to the cache. chosen: the tokens of the step before it.

        Returns logits of the rows after which a token is chosen, and what padding follows them; and the most probable
        tokens of a replayed step.
        """
        if isinstance(plan, HostBatch):
            assert self._graphs is not None
            decoded = self._graphs.run(plan)
            return decoded.logits, decoded.token_ids
        step = step_tensors(
            plan,
            block_tokens=self._sizes.block_tokens,
            device=self.model.device,
            chosen=chosen,
        )
        hidden = self.model(step.token_ids, step.positions, self._caches, step.batch)
        if not len(step.sampled_rows):
            return hidden[:0], None
        return self.model.logits(hidden[step.sampled_rows]), None

    def compute(self, slices: Sequence[Slice], earlier: Earlier | None) -> Computed:
        """Logits of the rows after which a token is chosen."""
        return self.computed(slices, self.plan(slices, earlier), earlier)

    def computed(self, slices: Sequence[Slice], plan: Plan, earlier: Earlier | None) -> Computed:
        """The same, of a plan that was made of the slices."""
        chosen = None if earlier is None else earlier.token_ids
        logits, most_probable = self.run(plan, chosen)
        sampling = [part for part in in_order(slices) if part.samples]
        count = sum(part.drafts + 1 for part in sampling)
        return Computed(logits[:count], sampling, most_probable)

    def remember(self, token_ids: Tensor) -> None:
        """These tokens were chosen after the last step, where they are not the most probable ones of a replayed one."""
        if self._graphs is not None:
            self._graphs.remember(token_ids)


def _graphs(model: Decoder, caches: Sequence[LayerCache], sizes: PagedSizes) -> DecodeGraphs:
    context_blocks = -(-model.config.max_position_embeddings // sizes.block_tokens)
    return DecodeGraphs(
        model,
        caches,
        max_requests=sizes.max_requests,
        max_blocks=min(sizes.blocks, context_blocks, _WIDEST_REPLAYED_TABLE),
        block_tokens=sizes.block_tokens,
        scratch_slot=sizes.blocks * sizes.block_tokens,
    )


def _fits(graphs: DecodeGraphs, slices: Sequence[Slice]) -> bool:
    rows = sum(len(part.token_ids) for part in slices)
    widest = max(len(part.block_table) for part in slices)
    return all(part.is_decode for part in slices) and graphs.has_room_for(rows, widest)


def rows_multiple(model: Decoder) -> int:
    """A step's rows are padded to a multiple of this, so that no answer depends on who else is in the step.

    fp32 products on a CPU differ in their last bits between heights that are no multiple of 4; bf16 ones do not.
    """
    return 4 if model.dtype == torch.float32 and model.device.type == "cpu" else 1


def _caches(model: Decoder, blocks: int, block_tokens: int, dtype: torch.dtype) -> list[LayerCache]:
    if dtype == torch.float8_e4m3fn:
        check_fp8(model.device)
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
