"""The dice: every token as often as it should come, on a CPU and in whole numbers as on a GPU."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from serving.engine.request import SamplingParams
from serving.sampling.draw import Throw, dice_throw, draw_on_device
from serving.sampling.draw_cpu import draw_on_cpu

Draw = Callable[[Tensor, Sequence[Throw]], list[int]]


def by_cpu(scores: Tensor, throws: Sequence[Throw]) -> list[int]:
    return [draw_on_cpu(row, throw) for row, throw in zip(scores, throws, strict=True)]


def by_device(scores: Tensor, throws: Sequence[Throw]) -> list[int]:
    drawn: list[int] = draw_on_device(scores, throws).tolist()
    return drawn


both = pytest.mark.parametrize("draw", [by_cpu, by_device])


def throws(count: int, **sampling: Any) -> list[Throw]:
    params = SamplingParams(max_tokens=9, **sampling)
    return [Throw(params, dice_throw(seed, 0)) for seed in range(count)]


def kept(logits: Tensor, sampling: SamplingParams) -> Tensor:
    """The probabilities that vLLM's order of cuts leaves, one after another over a sorted list: slow and plain."""
    shares = torch.softmax(logits.double() / sampling.temperature, dim=-1)
    shares[shares < sampling.min_p * shares.max()] = 0.0
    falling = shares.sort(descending=True).values
    if sampling.top_k:
        shares[shares < falling[min(sampling.top_k, len(shares)) - 1]] = 0.0
    wanted, reached = sampling.top_p * float(shares.sum()), 0.0
    for share in shares.sort(descending=True).values.tolist() if sampling.top_p < 1.0 else ():
        reached += share
        if reached >= wanted:
            shares[shares < share] = 0.0
            break
    return shares / shares.sum()


CUTS: list[dict[str, float]] = [
    {},
    {"temperature": 0.6},
    {"temperature": 1.8},
    {"min_p": 0.15},
    {"top_k": 5},
    {"top_p": 0.75},
    {"temperature": 1.3, "min_p": 0.05, "top_k": 9, "top_p": 0.9},
]


@both
@pytest.mark.parametrize("sampling", CUTS)
def test_tokens_come_as_often_as_the_cut_probabilities_say(
    draw: Draw, sampling: dict[str, float]
) -> None:
    """Pearson's chi-square over 4,000 seeds stays below the 99.99 % quantile (Wilson and Hilferty)."""
    torch.manual_seed(5)
    logits = torch.randn(16) * 1.5
    rolls = throws(4_000, **sampling)
    right = kept(logits, rolls[0].sampling)
    counts = Counter(draw(logits.expand(len(rolls), -1), rolls))
    assert {token_id for token_id in counts if right[token_id] == 0.0} == set()
    expected = {token_id: 4_000 * float(share) for token_id, share in enumerate(right) if share > 0}
    chi_square = sum((counts[each] - of) ** 2 / of for each, of in expected.items())
    freedom = max(len(expected) - 1, 1)
    assert chi_square < freedom * (1 - 2 / (9 * freedom) + 3.72 * (2 / (9 * freedom)) ** 0.5) ** 3


@both
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 999),
    spread=st.sampled_from([0.0, 0.01, 1.0, 4.0]),
    temperature=st.sampled_from([0.3, 1.0, 2.0]),
    min_p=st.sampled_from([0.0, 1e-4, 0.3]),
    top_k=st.sampled_from([0, 1, 7, 700, 5_000, 30_000, 99_999]),
    top_p=st.sampled_from([1e-9, 0.3, 0.9, 0.9999, 1.0]),
)
def test_the_least_and_the_greatest_dice_hit_the_first_and_the_last_token_that_stays(
    draw: Draw, seed: int, spread: float, **sampling: float
) -> None:
    """In a vocabulary so large that it is not sorted whole; logits are rounded, so that many are equal."""
    torch.manual_seed(seed)
    logits = (torch.randn(20_011) * spread).bfloat16().float()
    params = SamplingParams(max_tokens=9, **sampling)  # type: ignore[arg-type]
    # A cut in the middle of a crowd falls where rounding lets it: then one token more or less is no mistake.
    loose, tight = (
        kept(logits, SamplingParams(max_tokens=9, **{**sampling, "top_p": top_p})).nonzero()[:, 0]  # type: ignore[arg-type]
        for top_p in (min(params.top_p * (1 + 1e-6), 1.0), params.top_p * (1 - 1e-6))
    )
    first, last = draw(logits.expand(2, -1), [Throw(params, 0.0), Throw(params, 1 - 2**-53)])
    assert loose[0] <= first <= tight[0]
    assert tight[-1] <= last <= loose[-1]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), data=st.data())
def test_a_cpu_and_a_gpu_draw_alike(seed: int, data: st.DataObject) -> None:
    torch.manual_seed(seed)
    logits = torch.randn(8, 1_000) * 3
    params = data.draw(st.sampled_from(CUTS[1:]))
    rolls = throws(8, **params)
    assert by_cpu(logits, rolls) == by_device(logits, rolls)


@both
def test_a_row_gets_the_same_beside_rows_with_other_cuts(draw: Draw) -> None:
    torch.manual_seed(1)
    logits = torch.randn(len(CUTS), 5_001) * 2
    rolls = [Throw(SamplingParams(9, **cuts), 0.37) for cuts in CUTS]  # type: ignore[arg-type]
    alone = [draw(logits[i : i + 1], rolls[i : i + 1])[0] for i in range(len(CUTS))]
    assert draw(logits, rolls) == alone
    assert draw(logits.flip(0), rolls[::-1]) == alone[::-1]


@both
@pytest.mark.parametrize("temperature", [1e-300, 1e-30, 1e-3])
def test_a_tiny_temperature_is_nearly_greedy_and_does_not_overflow(
    draw: Draw, temperature: float
) -> None:
    logits = torch.tensor([[-80.0, 90.0, 89.0, -torch.inf]])
    for dice in (0.0, 0.5, 1 - 2**-53):
        params = SamplingParams(9, temperature=temperature, top_p=0.9)
        assert draw(logits, [Throw(params, dice)]) == [1]


@both
def test_a_forbidden_token_is_never_hit_even_at_the_edges(draw: Draw) -> None:
    logits = torch.full((1, 1_000), -torch.inf)
    logits[0, [130, 131, 700]] = torch.tensor([0.0, 1.0, 2.0])
    for dice in (0.0, *(step / 50 for step in range(50)), 1 - 2**-53):
        assert set(draw(logits, [Throw(SamplingParams(9), dice)])) <= {130, 131, 700}


@both
def test_equally_probable_tokens_stay_or_go_together(draw: Draw) -> None:
    """Which of them a kernel sorts first is nobody's business."""
    logits = torch.tensor([[0.0, 2.0, 1.0, 1.0, 1.0]])
    for cuts in ({"top_k": 2}, {"top_p": 0.5}):
        drawn = {
            draw(logits, [Throw(SamplingParams(9, **cuts), step / 100)])[0]  # type: ignore[arg-type]
            for step in range(100)
        }
        assert drawn == {1, 2, 3, 4}


@both
def test_logits_that_are_no_numbers_still_give_a_token_of_the_vocabulary(draw: Draw) -> None:
    logits = torch.full((1, 300), torch.nan)
    for cuts in CUTS:
        (drawn,) = draw(logits, [Throw(SamplingParams(9, **cuts), 0.5)])  # type: ignore[arg-type]
        assert 0 <= drawn < 300


def test_dice_are_never_one() -> None:
    numbers = [dice_throw(seed, position) for seed in range(100) for position in range(100)]
    assert 0.0 <= min(numbers) < 0.01
    assert 0.99 < max(numbers) < 1.0
    assert dice_throw(1, 2) != dice_throw(2, 1)
