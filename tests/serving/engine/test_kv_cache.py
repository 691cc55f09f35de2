"""Who holds which block."""

from hypothesis import given, settings
from hypothesis import strategies as st

from serving.engine.kv_cache import BlockPool

requests = st.sampled_from("abcd")
chains = st.lists(st.sampled_from([b"x", b"y"]), max_size=6).map(
    lambda parts: [b"".join(parts[: end + 1]) for end in range(len(parts))]
)
moves = st.lists(
    st.tuples(st.just("begin"), requests, chains, st.integers(0, 70))
    | st.tuples(st.just("grow"), requests, st.integers(0, 70))
    | st.tuples(st.just("name"), requests, chains)
    | st.tuples(st.just("release"), requests)
    | st.tuples(st.just("forget")),
    max_size=60,
)


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 8), moves)
def test_no_block_is_lost_or_given_twice(
    blocks: int, block_tokens: int, moves: list[tuple]
) -> None:
    pool = BlockPool(blocks, block_tokens)
    for move, *arguments in moves:
        table = pool.table(arguments[0]) if arguments else ()
        if move == "begin" and not table:
            name, chain, tokens = arguments
            found = pool.begin(name, chain[: tokens // block_tokens], tokens)
            assert found is None or len(pool.table(name)) * block_tokens >= tokens
        elif move == "grow" and pool.grow(*arguments):
            assert len(pool.table(arguments[0])) * block_tokens >= arguments[1]
        elif move == "name" and table:
            pool.name(*arguments)
        elif move == "release":
            pool.release(*arguments)
        elif move == "forget":
            pool.forget()
        pool.check_integrity()
        assert pool.used_blocks + pool.free_blocks == blocks


def test_a_prefix_is_found_after_its_request_has_gone() -> None:
    pool = BlockPool(4, block_tokens=16)
    pool.begin("a", [], 40)
    pool.name("a", [b"1", b"2"])
    before = pool.table("a")
    pool.release("a")
    assert pool.used_blocks == 0
    assert pool.begin("b", [b"1", b"2"], 40) == 2
    assert pool.table("b")[:2] == before[:2]


def test_two_requests_hold_the_same_blocks_and_none_goes_while_one_of_them_stays() -> None:
    pool = BlockPool(4, block_tokens=16)
    pool.begin("a", [], 32)
    pool.name("a", [b"1", b"2"])
    pool.begin("b", [b"1"], 32)
    assert pool.used_blocks == 3
    pool.release("a")
    assert pool.used_blocks == 2
    assert pool.find([b"1", b"2"]) == 2


def test_the_longest_unused_goes_first_and_the_end_of_a_prefix_before_its_beginning() -> None:
    pool = BlockPool(4, block_tokens=16)
    for name, chain in (("a", [b"1", b"2"]), ("b", [b"3", b"4"])):
        pool.begin(name, [], 32)
        pool.name(name, chain)
    pool.release("a")
    pool.release("b")
    assert pool.grow("c", 16)
    assert (pool.find([b"1", b"2"]), pool.find([b"3", b"4"])) == (1, 2)


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
    assert not pool.table("b")
    assert pool.free_blocks == 1
