"""What caches would have saved."""

import pytest

from serving.accounting.shadow import PrefixShadow, RequestShadow
from serving.engine.prefix import PrefixNames
from serving.engine.request import Constraint, ConstraintKind
from tests.serving.engine.fakes import a_request


def test_leading_blocks_that_were_seen_count_and_the_rest_does_not() -> None:
    shadow = PrefixShadow(block_tokens=4)
    assert shadow.observe(range(10)) == 0
    assert shadow.observe([*range(8), 99, 98, 97, 96]) == 8
    assert shadow.observe([4, 5, 6, 7]) == 0  # seen, but behind another block


def test_a_prefix_in_use_is_not_forgotten_for_others() -> None:
    shadow = PrefixShadow(capacity_blocks=6, block_tokens=4)
    system_prompt = list(range(16))
    shadow.observe(system_prompt)
    for user in range(100, 110):
        assert shadow.observe([*system_prompt, user, user, user, user]) == 16


def test_memory_is_bounded_and_the_beginning_is_forgotten_last() -> None:
    shadow = PrefixShadow(capacity_blocks=2, block_tokens=4)
    shadow.observe(range(40))
    assert shadow.observe(range(40)) == 8


def test_only_greedy_requests_can_be_repeated() -> None:
    shadow = RequestShadow()
    shadow.answered(a_request("1", temperature=0.7))
    assert not shadow.answered_before(a_request("2", temperature=0.7))
    shadow.answered(a_request("3"))
    assert shadow.answered_before(a_request("4"))
    assert not shadow.answered_before(a_request("5", max_tokens=9))
    assert not shadow.answered_before(a_request("6", prompt=[5, 6]))


@pytest.mark.parametrize(
    "otherwise",
    [
        {"constraint": Constraint(ConstraintKind.REGEX, "[0-9]+")},
        {"logit_bias": ((5, -100.0),)},
        {"repetition_penalty": 1.3},
        {"presence_penalty": 0.5},
        {"stop_token_ids": (7,)},
        {"logprobs": 2},
    ],
    ids=str,
)
def test_the_same_prompt_with_another_answer_is_no_repetition(otherwise: dict) -> None:
    shadow = RequestShadow()
    shadow.answered(a_request("1"))
    assert not shadow.answered_before(a_request("2", **otherwise))
    assert shadow.answered_before(a_request("3", seed=4, top_p=0.5))


def test_two_processes_do_not_share_names() -> None:
    one: list[bytes] = []
    other: list[bytes] = []
    PrefixNames(4).extend(one, range(8))
    PrefixNames(4).extend(other, range(8))
    assert len(one) == len(other) == 2
    assert not {*one} & {*other}
