"""The next token: what edits the logits, what is reported of them, and that nobody's choice hangs on a neighbour."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from serving.engine.request import SamplingParams, TokenLogprob
from serving.sampling.sampler import Row, choose, choose_together

LOGITS = torch.tensor([0.1, 0.4, 0.2, 0.3]).log()


def a_row(seed: int = 0, position: int = 0, mask: Tensor | None = None, **sampling: Any) -> Row:
    """history is a prompt (0, 1) and an answer (1, 2, 2)."""
    params = SamplingParams(max_tokens=9, **sampling)
    return Row(params, seed, position, history=(0, 1, 1, 2, 2), prompt_tokens=2, mask=mask)


def ids(logits: Tensor, rows: Sequence[Row]) -> list[int]:
    return choose(logits, rows).token_ids.tolist()


def scores_of(logits: Tensor, row: Row) -> list[float]:
    """What a row's logits have become, less their log-sum, as its report tells it."""
    (told,) = choose(logits[None], [row]).logprobs()
    assert told is not None
    by_id = dict(told.top)
    return [by_id.get(token_id, -torch.inf) for token_id in range(len(logits))]


def bits(allowed: Sequence[int], vocab: int) -> Tensor:
    words = [0] * ((vocab + 31) // 32)
    for token_id in allowed:
        words[token_id // 32] |= 1 << token_id % 32
    return torch.tensor(words, dtype=torch.int64).to(torch.int32)  # wraps round, as bits do


def test_temperature_zero_takes_the_first_of_the_most_probable() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0], [5.0, 1.0, 1.0]], dtype=torch.bfloat16)
    assert ids(logits, [a_row(temperature=0.0)] * 2) == [1, 0]


def test_nothing_is_written_into_the_logits() -> None:
    logits = torch.randn(3, 40)
    before = logits.clone()
    rows = [
        a_row(temperature=0.0, logit_bias=((3, 5.0),), mask=bits(range(30), 40)),
        a_row(repetition_penalty=1.5, logprobs=3),
        a_row(top_p=0.5),
    ]
    choose(logits, rows)
    assert torch.equal(logits, before)


def test_the_same_seed_throws_the_same_dice_beside_anybody() -> None:
    alone = ids(LOGITS[None], [a_row(seed=3, position=5)])
    rows = torch.stack([LOGITS.flip(0), LOGITS, LOGITS])
    beside = ids(rows, [a_row(seed=9), a_row(seed=3, position=5), a_row(temperature=0.0)])
    assert beside[1:2] == alone


def test_another_seed_or_position_throws_other_dice() -> None:
    logits = LOGITS.expand(50, -1)
    assert len(set(ids(logits, [a_row(seed=seed) for seed in range(50)]))) > 1
    assert len(set(ids(logits, [a_row(position=position) for position in range(50)]))) > 1


VOCAB = 300


@st.composite
def wishes(draw: st.DrawFn) -> Row:
    one_in = st.sampled_from
    sampling = SamplingParams(
        max_tokens=9,
        temperature=draw(one_in([0.0, 1e-40, 0.3, 1.0, 1.7])),
        top_p=draw(one_in([1.0, 0.9, 0.2])),
        top_k=draw(one_in([0, 1, 40, 1_000])),
        min_p=draw(one_in([0.0, 0.05])),
        presence_penalty=draw(one_in([0.0, 0.7])),
        frequency_penalty=draw(one_in([0.0, -0.4])),
        repetition_penalty=draw(one_in([1.0, 1.3])),
        logit_bias=draw(one_in([(), ((5, 4.0), (299, -9.0))])),
        logprobs=draw(one_in([None, 0, 4])),
    )
    mask = draw(one_in([None, bits(range(17, 230, 3), VOCAB)]))
    return Row(sampling, draw(st.integers(0, 9)), draw(st.integers(0, 9)), (4, 5, 9, 5), 2, mask)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(wishes(), min_size=2, max_size=7), seed=st.integers(0, 99), data=st.data())
def test_a_row_alone_beside_others_and_in_another_order_gets_the_same(
    rows: list[Row], seed: int, data: st.DataObject
) -> None:
    torch.manual_seed(seed)
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16]))
    logits = (torch.randn(len(rows), VOCAB) * 4).to(dtype)
    order = data.draw(st.permutations(range(len(rows))))
    beside, shuffled = choose(logits, rows), choose(logits[order], [rows[i] for i in order])
    as_on_a_gpu = choose_together(logits, rows)
    for place, index in enumerate(order):
        alone = choose(logits[index : index + 1], [rows[index]])
        for all_of_them, at in ((beside, index), (shuffled, place), (as_on_a_gpu, index)):
            assert all_of_them.token_ids[at] == alone.token_ids[0]
            assert all_of_them.logprobs()[at] == alone.logprobs()[0]


# What vLLM makes of them, by hand: history is the prompt 0, 1 and the answer 1, 2, 2.
PENALTIES = [
    ({"presence_penalty": 0.5}, [2.0, -1.0 - 0.5, 1.0 - 0.5, 0.0]),
    ({"frequency_penalty": 0.5}, [2.0, -1.0 - 0.5, 1.0 - 1.0, 0.0]),
    ({"repetition_penalty": 2.0}, [1.0, -2.0, 0.5, 0.0]),
    ({"logit_bias": ((3, 4.0), (0, -2.0), (77, 9.0))}, [0.0, -1.0, 1.0, 4.0]),
    (
        {
            "logit_bias": ((1, 3.0),),
            "repetition_penalty": 2.0,
            "presence_penalty": 0.25,
            "frequency_penalty": 0.5,
        },
        [1.0, 2.0 / 2 - 0.25 - 0.5, 0.5 - 0.25 - 1.0, 0.0],
    ),
]


@pytest.mark.parametrize(("sampling", "edited"), PENALTIES)
def test_penalties_and_bias_do_what_their_table_says(
    sampling: dict[str, Any], edited: list[float]
) -> None:
    logits = torch.tensor([2.0, -1.0, 1.0, 0.0])
    told = scores_of(logits, a_row(temperature=0.0, logprobs=4, **sampling))
    assert told == pytest.approx(torch.tensor(edited).log_softmax(-1).tolist(), abs=1e-6)


def test_penalties_of_one_row_leave_the_others_alone() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, 0.0]]).expand(3, -1)
    rows = [
        a_row(temperature=0.0),
        a_row(temperature=0.0, logit_bias=((3, 9.0),)),
        a_row(temperature=0.0, repetition_penalty=3.0, presence_penalty=1.5),
    ]
    assert ids(logits, rows) == [0, 3, 0]


def test_only_what_the_mask_allows_is_chosen() -> None:
    logits = torch.randn(1, 70).expand(40, -1)
    mask = bits([2, 33, 69], 70)
    rows = [a_row(seed=seed, mask=mask, temperature=3.0) for seed in range(39)]
    chosen = ids(logits, [*rows, a_row(mask=mask, temperature=0.0)])
    assert set(chosen) == {2, 33, 69}
    assert chosen[-1] == max([2, 33, 69], key=lambda token_id: float(logits[0, token_id]))


def test_tokens_behind_the_end_of_the_mask_are_forbidden() -> None:
    logits = torch.zeros(1, 70)
    logits[0, 64:] = 9.0
    assert ids(logits, [a_row(mask=torch.tensor([1, -1], dtype=torch.int32), temperature=0.0)]) == [
        0
    ]


def test_a_forbidden_token_is_no_alternative_to_report() -> None:
    row = a_row(mask=bits([1, 3], 4), temperature=0.0, logprobs=4)
    (told,) = choose(LOGITS[None], [row]).logprobs()
    assert told is not None
    assert [token_id for token_id, _ in told.top] == [1, 3]


def test_log_probabilities_are_those_before_the_temperature() -> None:
    logits = torch.randn(3, 50)
    rows = [a_row(logprobs=2, temperature=0.2, seed=1), a_row(), a_row(logprobs=0, temperature=0.0)]
    chosen = choose(logits, rows)
    right = logits.log_softmax(-1)
    first, none, last = chosen.to_host().logprobs()
    assert none is None
    assert first is not None
    assert first.token_id == chosen.token_ids[0]
    assert first.logprob == pytest.approx(float(right[0, first.token_id]), abs=1e-6)
    best = right[0].topk(2)
    assert [token_id for token_id, _ in first.top] == best.indices.tolist()
    assert [value for _, value in first.top] == pytest.approx(best.values.tolist(), abs=1e-6)
    assert last == TokenLogprob(int(logits[2].argmax()), pytest.approx(float(right[2].max())), ())
