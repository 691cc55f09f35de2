"""Who holds which block."""

from hypothesis import given
from hypothesis import strategies as st

from serving.engine.kv_cache import BlockPool

names = st.sampled_from("abcd")
moves = st.lists(st.tuples(names, st.none() | st.integers(0, 70)), max_size=60)


@given(st.integers(1, 12), st.integers(1, 8), moves)
def test_no_block_is_lost_or_given_twice(
    blocks: int, block_tokens: int, moves: list[tuple[str, int | None]]
) -> None:
    pool = BlockPool(blocks, block_tokens)
    for name, tokens in moves:
        if tokens is None:
            pool.release(name)
        elif pool.grow(name, tokens):
            assert len(pool.table(name)) * block_tokens >= tokens
        pool.check_integrity()
        assert pool.used_blocks + pool.free_blocks == blocks


def test_growing_keeps_the_blocks_that_hold_tokens_already() -> None:
    pool = BlockPool(4, block_tokens=16)
    assert pool.grow("a", 20)
    before = pool.table("a")
    assert pool.grow("a", 33)
    assert pool.table("a")[:2] == before


def test_what_does_not_fit_changes_nothing() -> None:
    pool = BlockPool(2, block_tokens=16)
    assert pool.grow("a", 16)
    assert not pool.grow("b", 32)
    assert pool.table("b") == ()
    assert pool.free_blocks == 1
