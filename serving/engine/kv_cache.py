"""Who holds which block of the KV cache. Numbers only: the tensors are the runner's.

A block is in one of three places:

    held   in the tables of one or more requests; several hold it where their tokens begin alike
    kept   in nobody's table, its keys and values still there to be found again by name; the longest unused goes first
    free   its content is worth nothing
"""

from array import array
from collections import Counter, OrderedDict
from collections.abc import Sequence

_INT32 = "i"  # numpy takes an array of them without looking at each


class BlockPool:
    """Blocks of block_tokens tokens each.

    A name stands for the tokens of a block and of all before it (see prefix.PrefixNames). sharing says whether
    whoever uses the pool is to name blocks.
    """

    def __init__(self, blocks: int, block_tokens: int, *, sharing: bool = True) -> None:
        self.blocks = blocks
        self.block_tokens = block_tokens
        self.sharing = sharing
        self._free = list(reversed(range(blocks)))  # the last one goes out first
        self._tables: dict[str, array[int]] = {}
        self._holders: Counter[int] = Counter()  # tables that a block is in
        self._by_name: dict[bytes, int] = {}
        self._names: dict[int, bytes] = {}
        self._kept: OrderedDict[int, None] = OrderedDict()  # longest unused first

    @property
    def free_blocks(self) -> int:
        """Blocks to be had, kept ones included."""
        return len(self._free) + len(self._kept)

    @property
    def used_blocks(self) -> int:
        """Blocks in somebody's table."""
        return self.blocks - self.free_blocks

    @property
    def capacity_tokens(self) -> int:
        return self.blocks * self.block_tokens

    def table(self, request_id: str) -> Sequence[int]:
        """A copy of the request's blocks, in the order of its tokens."""
        return array(_INT32, self._tables.get(request_id, ()))

    def find(self, names: Sequence[bytes]) -> int:
        """How many of the names, from the first on, have a block here."""
        for found, name in enumerate(names):
            if name not in self._by_name:
                return found
        return len(names)

    def begin(self, request_id: str, names: Sequence[bytes], tokens: int) -> int | None:
        """Give a request without a table the blocks that its names have, and fresh ones for `tokens` tokens in all.

        Returns how many blocks it found; None, with nothing changed, when too few are free for the others.
        """
        shared = [self._by_name[name] for name in names[: self.find(names)]]
        for block in shared:
            self._hold(block)
        self._tables[request_id] = array(_INT32, shared)
        if not self.grow(request_id, tokens):
            self.release(request_id)
            return None
        return len(shared)

    def grow(self, request_id: str, tokens: int) -> bool:
        """Make room for `tokens` tokens in all. False, with nothing changed, when too few blocks are free."""
        table = self._tables.get(request_id, array(_INT32))
        wanted = -(-tokens // self.block_tokens) - len(table)
        if wanted > self.free_blocks:
            return False
        for _ in range(wanted):
            table.append(self._fresh())
        self._tables[request_id] = table
        return True

    def name(self, request_id: str, names: Sequence[bytes]) -> None:
        """The request's first len(names) blocks are computed: from now on they are found by these names.

        A block whose name another block has already stays nameless: both hold the same.
        """
        for block, name in zip(self._tables[request_id], names, strict=False):
            if block not in self._names and name not in self._by_name:
                self._by_name[name], self._names[block] = block, name

    def release(self, request_id: str) -> None:
        """Take all blocks of a request back. One that holds none is no mistake: it may never have run."""
        # The last goes first, here and out of the kept ones: without its beginning a prefix is never found.
        for block in reversed(self._tables.pop(request_id, array(_INT32))):
            self._holders[block] -= 1
            if self._holders[block]:
                continue
            del self._holders[block]
            if block in self._names:
                self._kept[block] = None
            else:
                self._free.append(block)

    def forget(self) -> None:
        """Forget all names: what the blocks hold is not to be trusted."""
        self._free.extend(self._kept)
        self._kept.clear()
        self._by_name.clear()
        self._names.clear()

    def _hold(self, block: int) -> None:
        self._kept.pop(block, None)
        self._holders[block] += 1

    def _fresh(self) -> int:
        if not self._free:
            block, _ = self._kept.popitem(last=False)
            del self._by_name[self._names.pop(block)]
            self._free.append(block)
        block = self._free.pop()
        self._hold(block)
        return block

    def check_integrity(self) -> None:
        """Raise AssertionError unless every block is in exactly one place."""
        held = Counter(block for table in self._tables.values() for block in table)
        assert held == self._holders, f"holders {self._holders}, tables {held}"
        everywhere = sorted([*held, *self._free, *self._kept])
        assert everywhere == list(range(self.blocks)), f"blocks lost or doubled: {everywhere}"
        assert {block: name for name, block in self._by_name.items()} == self._names
        assert self._kept.keys() <= self._names.keys()
        assert not self._names.keys() & set(self._free)
