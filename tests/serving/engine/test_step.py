"""A step's rows: what one request gets is the same to the last bit, whoever is beside it."""

import pytest
import torch
from torch import Tensor

from serving.engine.paged_model import rows_multiple
from serving.engine.request import SamplingParams
from serving.engine.slices import Slice
from serving.engine.step import host_step, step_tensors
from serving.layers.attention import LayerCache
from serving.models.architectures import read_config
from serving.models.decoder import Decoder

BLOCKS, BLOCK_TOKENS = 12, 4


def a_model(dtype: torch.dtype) -> Decoder:
    torch.manual_seed(3)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 500,
        "hidden_size": 576,
        "intermediate_size": 1_536,
        "num_hidden_layers": 2,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
    }
    return Decoder(read_config(config)).to(dtype).requires_grad_(False)


def a_decode(index: int) -> Slice:
    """The token at position 4 + index, over a context that lies in three blocks of its own."""
    table = tuple(range(3 * index, 3 * index + 3))
    params = SamplingParams(max_tokens=1)
    return Slice(str(index), (7 + index,), 4 + index, table, True, True, params, 0, 0)


def hidden(model: Decoder, slices: list[Slice]) -> Tensor:
    """Hidden rows of the slices, over contexts that are the same in every call."""
    generator = torch.Generator().manual_seed(1)
    shape = (BLOCKS + 1, BLOCK_TOKENS, 3, 64)
    caches = [
        LayerCache(*(torch.randn(shape, generator=generator).to(model.dtype) for _ in range(2)))
        for _ in range(2)
    ]
    plan = host_step(
        slices,
        block_tokens=BLOCK_TOKENS,
        scratch_block=BLOCKS,
        pad_to=rows_multiple(model),
    )
    step = step_tensors(plan, block_tokens=BLOCK_TOKENS, device=torch.device("cpu"))
    return model(step.token_ids, step.positions, caches, step.batch)[step.sampled_rows]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_is_bitwise_the_same_alone_and_in_a_batch(dtype: torch.dtype) -> None:
    torch.set_num_threads(1)
    model = a_model(dtype)
    slices = [a_decode(index) for index in range(4)]
    for count in (2, 3, 4):
        together = hidden(model, slices[:count])
        for index in range(count):
            assert torch.equal(together[index], hidden(model, [slices[index]])[0])
