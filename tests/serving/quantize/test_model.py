"""Quantizing a whole model in place."""

import gc
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn

from serving.models.decoder import Decoder
from serving.quantize import int4
from serving.quantize.linear import SCHEMES
from serving.quantize.model import quantize, weight_bytes
from serving.quantize.quality import compare, logits_of
from serving.weights import load
from tests.serving.models.tiny import save_tiny_llama


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    save_tiny_llama(folder, tie_word_embeddings=True)
    return folder


@pytest.fixture
def model(folder: Path) -> Decoder:
    return load(str(folder), dtype=torch.bfloat16, cache_dir=None).model


TEXTS = [torch.arange(3, 60), torch.arange(200, 120, -1)]


@pytest.mark.parametrize("scheme", ["int8", "int4", "fp8"])
def test_a_quantized_model_answers_as_one_of_the_weights_that_its_codes_stand_for(
    folder: Path, scheme: str
) -> None:
    quantized, widened = (
        load(str(folder), dtype=torch.float32, cache_dir=None).model for _ in range(2)
    )
    quantize(quantized, scheme, head=False)
    how = SCHEMES[scheme]
    for module in widened.layers.modules():
        if isinstance(module, nn.Linear):
            module.weight.copy_(how.decode(how.encode(module.weight), torch.float32))
    assert compare(logits_of(widened), logits_of(quantized), TEXTS).mean_kl < 1e-6


def test_the_report_says_what_the_weights_took_and_take(model: Decoder) -> None:
    before = weight_bytes(model)
    report = quantize(model, "int8")
    assert (report.bytes_before, report.bytes_after) == (before, weight_bytes(model))
    # The tied head becomes a matrix of its own, of bytes beside the embedding's bf16.
    assert report.bytes_after < 0.75 * before
    assert report.left == {}


def test_a_matrix_that_embedding_and_head_share_counts_once() -> None:
    shared = nn.ModuleDict({"embedding": nn.Embedding(10, 64), "head": nn.Linear(64, 10)})
    shared["head"].weight = shared["embedding"].weight
    assert weight_bytes(shared) == 10 * 64 * 4 + 10 * 4


def test_the_originals_are_freed(model: Decoder) -> None:
    originals = [weakref.ref(part) for part in model.modules() if isinstance(part, nn.Linear)]
    quantize(model, "int4")
    gc.collect()
    assert originals
    assert not any(original() for original in originals)


@pytest.mark.parametrize("head", [True, False])
def test_the_head_is_quantized_where_it_is_asked_for(model: Decoder, head: bool) -> None:
    report = quantize(model, "int4", head=head)
    assert isinstance(model.lm_head, nn.Linear) is not head
    assert list(report.left) == ([] if head else ["lm_head"])
    # With four bits in the head answers drift twenty times as far.
    assert ("int8" in repr(model.lm_head)) is head
    assert model.embed_tokens.weight.dtype == torch.bfloat16


def test_inputs_that_fill_no_group_stay_as_they_are_and_are_named() -> None:
    model = nn.Sequential(nn.Linear(40, 64), nn.Linear(64, 8))
    report = quantize(model, "int4")
    assert report.left == {"0": "its 40 inputs are no multiple of 32"}
    assert isinstance(model[0], nn.Linear)
    assert not isinstance(model[1], nn.Linear)


@pytest.mark.parametrize("scheme", list(SCHEMES))
def test_a_damaged_weight_is_refused_by_its_name(model: Decoder, scheme: str) -> None:
    model.layers[1].mlp.down_proj.weight[3, 7] = float("nan")
    with pytest.raises(
        ValueError, match=rf"'layers.1.mlp.down_proj' can't be .* to {scheme}: .*finite"
    ):
        quantize(model, scheme)


def test_a_scheme_that_there_is_none_of_is_refused_with_those_there_are(model: Decoder) -> None:
    with pytest.raises(ValueError, match=r"no scheme 'int3'; expected one of int8, .*fp8-dynamic"):
        quantize(model, "int3")


def test_a_model_is_not_quantized_twice(model: Decoder) -> None:
    quantize(model, "int8")
    with pytest.raises(ValueError, match="left to quantize; quantize it once"):
        quantize(model, "int4")


def test_int4_takes_the_codes_that_a_file_has_as_they_are() -> None:
    codes = torch.randint(0, 16, (32, 64), dtype=torch.uint8)
    scales, minimums = torch.rand(32, 2).half(), -torch.rand(32, 2).half()
    kept = {
        "0": (codes, scales, minimums),
        # Eight bits are none of int4's.
        "1": (codes.to(torch.int8), scales, minimums),
    }
    model = nn.Sequential(nn.Linear(64, 32, bias=False), nn.Linear(32, 32), nn.Linear(32, 64))
    before = model[1].weight.detach().clone()
    quantize(model, "int4", stored=kept.get)
    stands_for = int4.decode(
        int4.Int4Weight(int4.pack_codes(codes), scales, minimums), torch.float32
    )
    assert torch.allclose(model[0](torch.eye(64)).T, stands_for, atol=1e-5)
    off = model[1](torch.eye(32)).T - model[1](torch.zeros(32, 32)).T - before
    assert off.abs().max() < 0.03
