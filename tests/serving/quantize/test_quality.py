"""What is said of a changed model, on distributions whose figures are known."""

import math

import pytest
import torch
from torch import Tensor

from serving.quantize.quality import Quality, compare

TOKENS = torch.tensor([0, 1, 0, 1, 1])


def always(*probabilities: float) -> object:
    """A model that gives every next token the same distribution."""

    def logits(token_ids: Tensor) -> Tensor:
        return torch.tensor(probabilities).log().repeat(len(token_ids), 1)

    return logits


def test_a_model_is_no_distance_from_itself() -> None:
    assert compare(always(0.3, 0.7), always(0.3, 0.7), [TOKENS, TOKENS[:2]]) == Quality(
        tokens=5, mean_kl=0.0, p99_kl=0.0, top1_agreement=1.0, perplexity_ratio=1.0
    )


def test_the_figures_are_those_of_the_two_distributions() -> None:
    quality = compare(always(0.25, 0.75), always(0.5, 0.5), [TOKENS])
    kl = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    # What comes after the first token is 1, 0, 1, 1; a probability of ½ for each instead of ¾ and ¼.
    ratio = math.exp((3 * math.log(0.75 / 0.5) + math.log(0.25 / 0.5)) / 4)
    assert quality.tokens == 4
    assert quality.mean_kl == pytest.approx(kl)
    assert quality.p99_kl == pytest.approx(kl)
    assert quality.top1_agreement == 0.0
    assert quality.perplexity_ratio == pytest.approx(ratio)


def test_the_rare_token_that_goes_wrong_shows_in_the_tail_only() -> None:
    def stumbles(token_ids: Tensor) -> Tensor:
        logits = torch.zeros(len(token_ids), 2)
        logits[7, 0] = 20.0
        return logits

    quality = compare(always(0.5, 0.5), stumbles, [torch.zeros(41, dtype=torch.int64)])
    assert quality.mean_kl < 0.3
    assert quality.p99_kl > 5


@pytest.mark.parametrize("sequences", [[], [torch.tensor([1])]])
def test_nothing_to_compare_on_is_refused(sequences: list[Tensor]) -> None:
    with pytest.raises(ValueError, match="sequences of at least two tokens"):
        compare(always(1.0), always(1.0), sequences)
