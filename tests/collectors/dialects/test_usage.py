"""Meters never overlap, and add up to what was reported."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.dialects.usage import MAX_TOKENS, Counts, metered
from collectors.observation import Provenance, Usage

tokens = st.integers(0, 100_000)
maybe_tokens = st.none() | tokens


@given(fresh=tokens, read=tokens, write=tokens, output=tokens, reasoning=tokens)
def test_both_readings_of_input_give_the_same_meters(
    fresh: int, read: int, write: int, output: int, reasoning: int
) -> None:
    reasoning = min(reasoning, output)
    if not fresh + read + write + output:
        return
    with_cache = Counts(fresh + read + write, output, None, read, write, reasoning)
    without_cache = Counts(fresh, output, None, read, write, reasoning)
    expected = Usage(fresh, read, write, output, reasoning)
    assert metered(with_cache, input_excludes_cache=False).usage == expected
    if fresh + output:
        assert metered(without_cache, input_excludes_cache=True).usage == expected


@given(fresh=st.integers(1, 100_000), read=st.integers(1, 100_000), output=tokens)
def test_a_total_tells_which_reading_is_right(fresh: int, read: int, output: int) -> None:
    counts = Counts(fresh, output, fresh + read + output, read)
    found = metered(counts, input_excludes_cache=False)
    assert found == (Usage(fresh, read, None, output), Provenance.REPORTED, "")


def test_more_cached_tokens_than_input_is_kept_and_marked() -> None:
    found = metered(Counts(317, 211, None, 4099, 1409), input_excludes_cache=False)
    assert found.usage == Usage(317, 4099, 1409, 211)
    assert found.contradiction == (
        "more cached tokens than input tokens; read as input without them"
    )


def test_more_reasoning_than_output_is_kept_and_marked() -> None:
    found = metered(Counts(10, 5, None, None, None, 64), input_excludes_cache=False)
    assert found.usage == Usage(10, None, None, 69, 64)
    assert found.contradiction.startswith("more reasoning tokens than output tokens")


def test_a_total_that_reasoning_comes_on_top_of_adds_it_to_the_output() -> None:
    found = metered(Counts(10, 100, 174, None, None, 64), input_excludes_cache=False)
    assert found == (Usage(10, None, None, 164, 64), Provenance.REPORTED, "")


@pytest.mark.parametrize("counts", [Counts(None, None), Counts(0, 0), Counts(0, None, 0)])
def test_nothing_and_zeros_are_unknown(counts: Counts) -> None:
    found = metered(counts, input_excludes_cache=False)
    assert found == (Usage(), Provenance.ABSENT, "")


def test_an_embedding_has_input_and_no_output() -> None:
    found = metered(Counts(46, None, 46), input_excludes_cache=False)
    assert found == (Usage(input_tokens=46), Provenance.REPORTED, "")


@given(st.sampled_from(Counts._fields), st.sampled_from([-1, MAX_TOKENS + 1, 2**63 - 1]))
def test_an_impossible_count_is_unknown_and_marked(name: str, count: int) -> None:
    sane = Counts(1000, 100, 1100, 10, 10, 10)
    found = metered(sane._replace(**{name: count}), input_excludes_cache=False)
    assert f"impossible count of {name} tokens" in found.contradiction
    assert count not in (*_meters(found.usage), found.usage.reasoning_output_tokens)


@given(*([maybe_tokens] * 6), st.booleans())
def test_meters_are_never_negative_and_reasoning_is_part_of_output(
    input_: int | None,
    output: int | None,
    total: int | None,
    read: int | None,
    write: int | None,
    reasoning: int | None,
    excludes: bool,
) -> None:
    counts = Counts(input_, output, total, read, write, reasoning)
    usage = metered(counts, input_excludes_cache=excludes).usage
    assert all(count is None or count >= 0 for count in _meters(usage))
    if usage.output_tokens is not None and usage.reasoning_output_tokens is not None:
        assert usage.reasoning_output_tokens <= usage.output_tokens


def _meters(usage: Usage) -> tuple[int | None, ...]:
    return (
        usage.input_tokens,
        usage.cache_read_input_tokens,
        usage.cache_write_input_tokens,
        usage.output_tokens,
    )
