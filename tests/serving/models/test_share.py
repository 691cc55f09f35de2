"""What each of several ranks has of a model: together all of it, and nothing that isn't there."""

from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType
from hypothesis import given, reject
from hypothesis import strategies as st
from torch import Tensor

from serving.layers.linear import pack
from serving.models.architectures import read_config
from serving.models.config import DecoderConfig
from serving.models.filling import from_checkpoint
from serving.models.share import Share, part_of, piece_of
from serving.models.unsupported import UnsupportedModel
from serving.weights import LoadedModel, load
from serving.weights.cut import cut
from serving.weights.grouped import widen
from tests.serving.models.tiny import save_tiny, save_tiny_llama
from tests.serving.weights.gguf_files import write_gguf


def a_config(kv_heads: int, group: int, rows: int, **changes: Any) -> DecoderConfig:
    said = {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 61,
        "hidden_size": 24,
        "head_dim": 4,
        "intermediate_size": rows,
        "num_hidden_layers": 1,
        "num_attention_heads": kv_heads * group,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": 64,
        "attention_bias": True,
        "mlp_bias": True,
    }
    return read_config(said | changes)


def tensors_of(config: DecoderConfig) -> dict[str, Tensor]:
    """A checkpoint of the config whose numbers are all different."""
    size, heads = config.hidden_size, config.num_attention_heads * config.head_dim
    kv, rows = config.num_key_value_heads * config.head_dim, config.intermediate_size
    layer = "model.layers.0."
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config.vocab_size, size),
        "model.norm.weight": (size,),
        "lm_head.weight": (config.vocab_size, size),
        **{
            f"{layer}{name}.weight": (size,)
            for name in ("input_layernorm", "post_attention_layernorm")
        },
    }
    for name, outputs, inputs in (
        ("self_attn.q_proj", heads, size),
        ("self_attn.k_proj", kv, size),
        ("self_attn.v_proj", kv, size),
        ("self_attn.o_proj", size, heads),
        ("mlp.gate_proj", rows, size),
        ("mlp.up_proj", rows, size),
        ("mlp.down_proj", size, rows),
    ):
        shapes |= {f"{layer}{name}.weight": (outputs, inputs), f"{layer}{name}.bias": (outputs,)}
    return {name: torch.rand(shape) + 0.1 for name, shape in shapes.items()}


@given(
    st.sampled_from([(1, 4), (2, 4), (4, 1), (3, 2), (6, 6)]),
    st.sampled_from([2, 3, 4, 6, 12]),
    st.sampled_from([24, 48, 36]),
)
def test_the_ranks_pieces_make_up_each_tensor_and_fit_into_their_models(
    heads: tuple[int, int], ranks: int, rows: int
) -> None:
    config = a_config(*heads, rows)
    tensors = tensors_of(config)
    shares = [Share(rank, ranks) for rank in range(ranks)]
    try:
        configs = [part_of(config, share) for share in shares]
    except UnsupportedModel:
        reject()
    parts = [
        from_checkpoint(each, cut(tensors, config, share), dtype=torch.float32)
        for each, share in zip(configs, shares, strict=True)
    ]
    assert sum(part.lm_head.out_features for part in parts) == config.vocab_size
    for name, whole in tensors.items():
        pieces = [cut(tensors, config, share)[name] for share in shares]
        piece = piece_of(config, shares[0], name)
        if name.endswith(("o_proj.bias", "down_proj.bias")):
            assert torch.equal(sum(pieces, torch.zeros(())), whole)
        elif piece is None:
            assert all(torch.equal(each, whole) for each in pieces)
        elif (several := ranks // heads[0]) > 1 and ("k_proj" in name or "v_proj" in name):
            assert torch.equal(torch.cat(pieces[::several]), whole)
            assert all(
                torch.equal(each, pieces[at // several * several]) for at, each in enumerate(pieces)
            )
        else:
            assert torch.equal(torch.cat(pieces, dim=piece.dim), whole)


def test_what_can_not_be_dealt_out_is_refused_with_what_can_be() -> None:
    config = a_config(3, 3, 36)
    with pytest.raises(
        UnsupportedModel, match=r"9 attention heads, 3 key-value heads .* 2 ranks; use 3 or 9"
    ):
        part_of(config, Share(0, 2))
    with pytest.raises(UnsupportedModel, match="use one rank"):
        part_of(a_config(1, 1, 36), Share(0, 2))


def test_a_tensor_of_another_size_is_refused_and_not_cut_to_fit(tmp_path: Path) -> None:
    save_tiny_llama(tmp_path, intermediate_size=128)
    file = tmp_path / "config.json"
    file.write_text(file.read_text().replace('"intermediate_size": 128', '"intermediate_size": 64'))
    with pytest.raises(
        UnsupportedModel, match=r"_proj.weight' has the shape .*config.json means 64"
    ):
        load(str(tmp_path), dtype=torch.float32, cache_dir=None, share=Share(1, 2))


def parts_of(source: Path, dtype: torch.dtype = torch.float32) -> list[LoadedModel]:
    return [
        load(str(source), dtype=dtype, cache_dir=None, share=Share(rank, 2)) for rank in range(2)
    ]


def test_a_folders_pieces_are_read_as_they_lie_in_the_whole_model(tmp_path: Path) -> None:
    save_tiny("Qwen2", tmp_path)
    whole = load(str(tmp_path), dtype=torch.float32, cache_dir=None).model
    parts = [each.model for each in parts_of(tmp_path)]
    for module, dim in (("mlp.down_proj", 1), ("self_attn.o_proj", 1)):
        name = f"layers.2.{module}"
        pieces = [part.get_submodule(name).weight for part in parts]
        assert torch.equal(torch.cat(pieces, dim), whole.get_submodule(name).weight)
    first, second = (part.layers[0].self_attn.qkv_proj.bias for part in parts)
    query, key, value = whole.layers[0].self_attn.qkv_proj.bias.split([64, 16, 16])
    assert torch.equal(first, torch.cat((query[:32], key[:8], value[:8])))
    assert torch.equal(second, torch.cat((query[32:], key[8:], value[8:])))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tied_head_reads_its_tokens_rows_of_the_embedding_also_when_packed(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    save_tiny_llama(tmp_path, tie_word_embeddings=True, vocab_size=259)
    whole = load(str(tmp_path), dtype=dtype, cache_dir=None).model
    hidden = torch.randn(3, 64, generator=torch.Generator().manual_seed(2)).to(dtype)
    right = whole.logits(hidden)
    token_ids = torch.tensor([0, 130, 258])
    parts = [each.model for each in parts_of(tmp_path, dtype)]
    for part in parts:
        assert part.lm_head.weight.untyped_storage().data_ptr() == (
            part.embed_tokens.weight.untyped_storage().data_ptr()
        )
        pack(part)
        assert torch.equal(part.embed_tokens(token_ids), whole.embed_tokens(token_ids))
    found = torch.cat([part.logits(hidden) for part in parts], dim=-1)
    assert found.shape == (3, 259)
    torch.testing.assert_close(found, right, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("quantization", ["Q4_0", "Q8_0"])
def test_codes_of_a_file_are_cut_as_the_weights_are(tmp_path: Path, quantization: str) -> None:
    reference = save_tiny_llama(
        tmp_path / "folder", tie_word_embeddings=True, intermediate_size=128
    )
    write_gguf(tmp_path / "x.gguf", reference, matrices=GGMLQuantizationType[quantization])
    for loaded in parts_of(tmp_path / "x.gguf"):
        for module in (
            *("layers.1.self_attn.qkv_proj", "layers.0.self_attn.o_proj"),
            *("layers.0.mlp.gate_up_proj", "layers.2.mlp.down_proj", "lm_head"),
        ):
            codes = loaded.grouped(module)
            assert codes is not None
            assert torch.equal(widen(codes), loaded.model.get_submodule(module).weight)


def test_codes_are_not_cut_within_a_group(tmp_path: Path) -> None:
    reference = save_tiny_llama(tmp_path / "folder", intermediate_size=96)
    write_gguf(tmp_path / "x.gguf", reference, matrices=GGMLQuantizationType.Q4_1)
    for loaded in parts_of(tmp_path / "x.gguf"):
        assert loaded.grouped("layers.0.mlp.down_proj") is None  # 48 inputs each
