"""The next token."""

from collections import Counter

import pytest
import torch

from serving.engine.request import SamplingParams
from serving.engine.sampler import sample
from serving.engine.scheduler import Slice


def a_slice(seed: int = 0, position: int = 0, **sampling: float) -> Slice:
    params = SamplingParams(max_tokens=9, **sampling)  # type: ignore[arg-type]
    return Slice("r", (1,), 0, (0,), True, False, params, seed, position)


LOGITS = torch.tensor([0.1, 0.4, 0.2, 0.3]).log()


def draws(count: int = 2_000, **sampling: float) -> Counter[int]:
    slices = [a_slice(seed=7, position=i, **sampling) for i in range(count)]
    return Counter(sample(LOGITS.expand(count, -1), slices))


def test_temperature_zero_takes_the_most_probable() -> None:
    assert draws(5, temperature=0.0) == {1: 5}


def test_tokens_come_as_often_as_the_model_says() -> None:
    for token, share in enumerate([0.1, 0.4, 0.2, 0.3]):
        assert draws()[token] / 2_000 == pytest.approx(share, abs=0.04)


def test_temperature_sharpens() -> None:
    assert draws(temperature=0.5)[1] / 2_000 == pytest.approx(0.16 / 0.30, abs=0.04)


def test_top_k_and_top_p_leave_the_most_probable_tokens() -> None:
    assert set(draws(top_k=2)) == {1, 3}
    assert set(draws(top_p=0.69)) == {1, 3}
    assert set(draws(top_p=0.71)) == {1, 2, 3}
    assert set(draws(top_p=1e-9)) == {1}
    assert draws(top_k=2)[1] / 2_000 == pytest.approx(4 / 7, abs=0.04)


def test_a_nucleus_wider_than_the_usual_few_is_still_whole() -> None:
    """A flat distribution over 4,000 tokens: top_p keeps its share of them."""
    count = 3_000
    slices = [a_slice(seed=1, position=i, top_p=0.5) for i in range(count)]
    flat = torch.linspace(0.001, 0, 4_000)
    drawn = sample(flat.expand(count, -1), slices)
    assert max(drawn) < 2_002
    assert max(drawn) > 1_900


def test_the_same_seed_throws_the_same_dice_beside_anybody() -> None:
    alone = sample(LOGITS[None], [a_slice(seed=3, position=5)])
    rows = torch.stack([LOGITS.flip(0), LOGITS, LOGITS])
    beside = sample(rows, [a_slice(seed=9), a_slice(seed=3, position=5), a_slice(temperature=0.0)])
    assert beside[1:2] == alone


def test_another_seed_or_position_throws_other_dice() -> None:
    assert len(draws(50)) > 1
    by_seed = {sample(LOGITS[None], [a_slice(seed=seed)])[0] for seed in range(50)}
    assert len(by_seed) > 1
