"""GGUF files, written here, small: the model that they were made of, or a clear no."""

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from serving.models.unsupported import UnsupportedModel
from serving.weights import LoadedModel, ModelNotLoaded, load
from serving.weights.grouped import GROUP_INPUTS, widen
from tests.serving.models.tiny import SHAPE, save_tiny, save_tiny_llama
from tests.serving.weights.gguf_files import write_gguf

F32 = GGMLQuantizationType.F32


@pytest.fixture
def tiny_gguf(tmp_path: Path) -> Path:
    model = save_tiny_llama(tmp_path / "folder")
    write_gguf(tmp_path / "tiny.gguf", model)
    return tmp_path / "tiny.gguf"


def test_a_gguf_file_is_the_model_that_it_was_made_of(tiny_gguf: Path) -> None:
    ours = load(str(tiny_gguf), dtype=torch.float32, cache_dir=None)
    original = load(str(tiny_gguf.parent / "folder"), dtype=torch.float32, cache_dir=None)
    for (name, found), wanted in zip(
        ours.model.state_dict().items(), original.model.state_dict().values(), strict=True
    ):
        assert torch.allclose(found, wanted, atol=0.02), name  # Q8_0 keeps about two digits
    assert ours.name == "tiny"
    assert ours.tokenizer.encode("ab1<end>") == [1, 2 + ord("1") - 0x21, 0]


def test_the_second_load_is_the_first_from_the_cache(tiny_gguf: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache" / "models"
    first = load(str(tiny_gguf), dtype=torch.bfloat16, cache_dir=cache)
    (kept,) = cache.iterdir()
    stamp = (kept / "model.safetensors").stat().st_mtime_ns
    second = load(str(tiny_gguf), dtype=torch.bfloat16, cache_dir=cache)
    assert [folder.name for folder in cache.iterdir()] == [kept.name]
    assert (kept / "model.safetensors").stat().st_mtime_ns == stamp
    assert first.config == second.config
    assert first.tokenizer.eos_token_ids == second.tokenizer.eos_token_ids == {0}
    for one, other in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_another_file_or_dtype_has_its_own_cache(tiny_gguf: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    load(str(tiny_gguf), dtype=torch.bfloat16, cache_dir=cache)
    assert load(str(tiny_gguf), dtype=torch.float32, cache_dir=cache).model.dtype == torch.float32
    write_gguf(tiny_gguf, save_tiny_llama(tmp_path / "other", num_hidden_layers=1))
    other = load(str(tiny_gguf), dtype=torch.float32, cache_dir=cache)
    assert other.config.num_hidden_layers == 1
    assert len(list(cache.iterdir())) == 3


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (
            {"architecture": "gemma3"},
            "'gemma3'; of GGUF files this runtime reads 'llama', 'mistral'",
        ),
        ({"pre_tokenizer": "viking"}, "pre-tokenizer is 'viking'; expected one of smollm"),
    ],
)
def test_a_gguf_file_that_we_would_get_wrong_is_refused(
    tmp_path: Path, written: dict[str, Any], message: str
) -> None:
    write_gguf(tmp_path / "x.gguf", save_tiny_llama(tmp_path / "folder"), **written)
    with pytest.raises(ModelNotLoaded, match=message):
        load(str(tmp_path / "x.gguf"), dtype=torch.float32, cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_file_that_is_no_gguf_says_so(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"not a model, but long enough to have a header")
    with pytest.raises(ModelNotLoaded, match="cannot be read as GGUF"):
        load(str(tmp_path / "x.gguf"), dtype=torch.float32, cache_dir=None)


FAMILIES: list[tuple[str, str, dict[str, Any]]] = [
    ("Llama", "llama", {"head_dim": 12}),
    ("Llama", "llama", {"attention_bias": True, "mlp_bias": True}),
    ("Llama", "llama", {"tie_word_embeddings": True}),
    ("Mistral", "llama", {"sliding_window": None}),
    ("Qwen2", "qwen2", {}),
    ("Qwen3", "qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
    ("SmolLM3", "smollm3", {"pad_token_id": None}),
    ("SmolLM3", "smollm3", {"pad_token_id": None, "tie_word_embeddings": False}),
]


def same_model(one: LoadedModel, other: LoadedModel) -> bool:
    ours, theirs = one.model.state_dict(), other.model.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


@pytest.mark.parametrize(("family", "architecture", "changes"), FAMILIES)
def test_every_family_is_what_its_folder_is(
    tmp_path: Path, family: str, architecture: str, changes: dict[str, Any]
) -> None:
    changes = changes | {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}
    reference = save_tiny(family, tmp_path / "folder", **changes)
    write_gguf(tmp_path / "x.gguf", reference, architecture=architecture, matrices=F32)
    ours = load(str(tmp_path / "x.gguf"), dtype=torch.float32, cache_dir=None)
    original = load(str(tmp_path / "folder"), dtype=torch.float32, cache_dir=None)
    assert same_model(ours, original)
    for name in ("rope", "windows", "rotated", "head_dim", "head_norms", "qkv_bias", "mlp_bias"):
        assert getattr(ours.config, name) == getattr(original.config, name), name
    assert ours.config.rms_norm_eps == pytest.approx(original.config.rms_norm_eps)
    if architecture in ("qwen2", "qwen3"):
        check_beside_transformers(tmp_path / "x.gguf", original)


def check_beside_transformers(file: Path, original: LoadedModel) -> None:
    described = load_gguf_checkpoint(str(file))["config"]
    config = AutoConfig.for_model(**described)
    model = AutoModelForCausalLM.from_config(config)
    read = load_gguf_checkpoint(str(file), return_tensors=True, model_to_load=model)["tensors"]
    ours = load(str(file), dtype=torch.float32, cache_dir=None).model
    qkv = torch.cat([read[f"model.layers.1.self_attn.{part}_proj.weight"] for part in "qkv"])
    assert torch.equal(ours.layers[1].self_attn.qkv_proj.weight, qkv)  # type: ignore[union-attr]


QUANTIZED_HERE = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]
RANDOM_BLOCKS = ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "TQ1_0"]
WIDE = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 1}  # blocks of 256


def random_blocks(values: Any, kind: GGMLQuantizationType) -> Any:
    """Bytes that stand for something finite: as fp16, none of them is beyond 2."""
    block_values, block_bytes = GGML_QUANT_SIZES[kind]
    shape = (*values.shape[:-1], values.shape[-1] // block_values * block_bytes)
    return numpy.random.default_rng(3).integers(0, 60, shape, dtype=numpy.uint8)


@pytest.mark.parametrize("name", [*QUANTIZED_HERE, *RANDOM_BLOCKS])
def test_every_quantization_is_read_as_its_own_package_reads_it(tmp_path: Path, name: str) -> None:
    kind = GGMLQuantizationType[name]
    encodings = {} if name in QUANTIZED_HERE else {"encode": random_blocks}
    reference = save_tiny("Qwen2", tmp_path / "folder", **WIDE)
    write_gguf(tmp_path / "x.gguf", reference, architecture="qwen2", matrices=kind, **encodings)
    ours = load(str(tmp_path / "x.gguf"), dtype=torch.float32, cache_dir=None).model
    for module, shape in (("layers.0.mlp.down_proj", (256, 512)), ("embed_tokens", (258, 256))):
        found = ours.get_submodule(module).weight
        if name in QUANTIZED_HERE:
            theirs = f"model.{module}.weight"
            coarse = 0.25 if "4" in name else 0.15 if "Q" in name else 0.01
            wanted = reference.state_dict()[theirs]
            assert (found - wanted).abs().max() < coarse  # weights are within ±2
        else:
            blocks = random_blocks(numpy.empty(shape), kind)
            assert torch.equal(found, torch.from_numpy(dequantize(blocks, kind).copy()))


def test_codes_are_handed_out_as_the_file_has_them_merged_as_the_model_is(tmp_path: Path) -> None:
    kinds = {"Q4_0": (torch.uint8, 15), "Q4_1": (torch.uint8, 15), "Q8_0": (torch.int8, 127)}
    reference = save_tiny_llama(tmp_path / "folder", tie_word_embeddings=True)
    for name, (dtype, largest) in kinds.items():
        write_gguf(tmp_path / "x.gguf", reference, matrices=GGMLQuantizationType[name])
        for cache_dir in (None, tmp_path / "cache"):
            loaded = load(str(tmp_path / "x.gguf"), dtype=torch.float32, cache_dir=cache_dir)
            for module in ("layers.1.self_attn.qkv_proj", "layers.0.mlp.gate_up_proj", "lm_head"):
                weight = loaded.model.get_submodule(module).weight
                codes = loaded.grouped(module)
                assert codes is not None
                assert codes.codes.dtype == dtype
                assert codes.codes.abs().max() <= largest
                assert codes.scales.dtype == codes.minimums.dtype == torch.float16
                assert codes.scales.shape == (len(weight), weight.shape[1] // GROUP_INPUTS)
                assert torch.equal(widen(codes), weight)


def test_a_file_without_such_codes_and_a_folder_hand_out_none(tmp_path: Path) -> None:
    reference = save_tiny_llama(tmp_path / "folder")
    write_gguf(tmp_path / "x.gguf", reference, matrices=GGMLQuantizationType.Q5_1)
    for source in ("x.gguf", "folder"):
        loaded = load(str(tmp_path / source), dtype=torch.float32, cache_dir=None)
        assert loaded.grouped("layers.0.mlp.down_proj") is None
    assert loaded.grouped("norm") is None


@pytest.mark.parametrize(
    ("more", "rope_parameters"),
    [
        (
            {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
            {"rope_type": "linear", "factor": 4.0},
        ),
        ({"rope.scale_linear": 2.0}, {"rope_type": "linear", "factor": 2.0}),
        (
            {
                "rope.scaling.type": "yarn",
                "rope.scaling.factor": 4.0,
                "rope.scaling.original_context_length": 32,
            },
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
        ),
        ({"rope.scaling.type": "none"}, {"rope_type": "default"}),
    ],
)
def test_rope_scaling_is_that_of_the_folder(
    tmp_path: Path, more: dict[str, Any], rope_parameters: dict[str, Any]
) -> None:
    rope_parameters = rope_parameters | {"rope_theta": 500.0}
    reference = save_tiny_llama(tmp_path / "folder", rope_parameters=rope_parameters)
    write_gguf(tmp_path / "x.gguf", reference, more=more)
    ours = load(str(tmp_path / "x.gguf"), dtype=torch.float32, cache_dir=None)
    original = load(str(tmp_path / "folder"), dtype=torch.float32, cache_dir=None)
    assert ours.config.rope == original.config.rope


def test_factors_of_frequencies_stand_for_the_scaling_of_llama_3(tmp_path: Path) -> None:
    llama3 = {
        "rope_type": "llama3",
        "rope_theta": 500.0,
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    reference = save_tiny_llama(tmp_path / "folder", rope_parameters=llama3)
    original = load(str(tmp_path / "folder"), dtype=torch.float32, cache_dir=None).model
    plain = 1 / 500.0 ** (torch.arange(0, 8, 2) / 8)
    factors = (plain / original.inverse_frequencies).tolist()
    write_gguf(tmp_path / "x.gguf", reference, tensors={"rope_freqs.weight": factors})
    ours = load(str(tmp_path / "x.gguf"), dtype=torch.float32, cache_dir=tmp_path / "cache").model
    assert torch.allclose(ours.inverse_frequencies, original.inverse_frequencies, rtol=1e-6)


def test_a_scaling_whose_numbers_a_file_does_not_have_is_refused_by_its_name(
    tmp_path: Path,
) -> None:
    more = {"rope.scaling.type": "longrope", "rope.scaling.factor": 4.0}
    write_gguf(tmp_path / "x.gguf", save_tiny_llama(tmp_path / "folder"), more=more)
    with pytest.raises(UnsupportedModel, match="rope scaling 'longrope' says no 'short_factor'"):
        load(str(tmp_path / "x.gguf"), dtype=torch.float32, cache_dir=None)


def test_a_file_that_ends_early_says_so_wherever_it_ends(tiny_gguf: Path) -> None:
    whole = tiny_gguf.read_bytes()
    for length in [*range(5, len(whole) - 32, len(whole) // 40), len(whole) - 33]:
        tiny_gguf.write_bytes(whole[:length])
        with pytest.raises(ModelNotLoaded, match=r"cannot be read as GGUF: .*; download it again"):
            load(str(tiny_gguf), dtype=torch.float32, cache_dir=None)


def test_a_quantization_that_nobody_here_knows_is_named(tiny_gguf: Path) -> None:
    content = bytearray(tiny_gguf.read_bytes())
    place = content.index(b"blk.0.ffn_up.weight") + len(b"blk.0.ffn_up.weight") + 4 + 2 * 8
    assert content[place] == GGMLQuantizationType.Q8_0
    content[place] = 99
    tiny_gguf.write_bytes(content)
    with pytest.raises(
        ModelNotLoaded, match=r"'blk.0.ffn_up.weight' in a quantization of number 99"
    ):
        load(str(tiny_gguf), dtype=torch.float32, cache_dir=None)


def test_a_tensor_of_another_shape_is_named_with_both(tmp_path: Path) -> None:
    more = {"feed_forward_length": SHAPE["intermediate_size"] + 32}
    write_gguf(tmp_path / "x.gguf", save_tiny_llama(tmp_path / "folder"), more=more)
    with pytest.raises(
        UnsupportedModel, match=r"has the shape \[96, 64\]; config.json means \[128, 64\]"
    ):
        load(str(tmp_path / "x.gguf"), dtype=torch.float32, cache_dir=None)
