"""Who holds which block of the KV cache. Numbers only: the tensors are the runner's."""

from collections.abc import Sequence


class BlockPool:
    """Blocks of block_tokens tokens each. Every block is free or in one request's table, never both."""

    def __init__(self, blocks: int, block_tokens: int) -> None:
        self.blocks = blocks
        self.block_tokens = block_tokens
        self._free = list(reversed(range(blocks)))  # the last one goes out first
        self._tables: dict[str, list[int]] = {}

    @property
    def free_blocks(self) -> int:
        return len(self._free)

    @property
    def used_blocks(self) -> int:
        return self.blocks - len(self._free)

    @property
    def capacity_tokens(self) -> int:
        return self.blocks * self.block_tokens

    def table(self, request_id: str) -> Sequence[int]:
        """The request's blocks in the order of its tokens."""
        return tuple(self._tables.get(request_id, ()))

    def grow(self, request_id: str, tokens: int) -> bool:
        """Make room for `tokens` tokens in all. False, with nothing changed, when too few blocks are free."""
        table = self._tables.get(request_id, [])
        wanted = -(-tokens // self.block_tokens) - len(table)
        if wanted > len(self._free):
            return False
        table.extend(self._free.pop() for _ in range(wanted))
        self._tables[request_id] = table
        return True

    def release(self, request_id: str) -> None:
        """Take all blocks of a request back. One that holds none is no mistake: it may never have run."""
        self._free.extend(reversed(self._tables.pop(request_id, [])))

    def check_integrity(self) -> None:
        """Raise AssertionError unless every block is in exactly one place."""
        held = [block for table in self._tables.values() for block in table]
        everywhere = sorted(held + self._free)
        assert everywhere == list(range(self.blocks)), f"blocks lost or doubled: {everywhere}"
