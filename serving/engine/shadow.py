"""What caches would have saved, if there were any: they keep keyed hashes and never a text.

    PrefixShadow    leading prompt tokens that were seen before
    RequestShadow   greedy requests that were answered before

The key is random and dies with the process, so that a memory dump gives no prompt away by guessing.
"""

import hashlib
import secrets
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence

from serving.engine.request import Request

_DIGEST_BYTES = 16


class _RecentHashes:
    """The last `capacity` hashes that were touched."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._hashes: OrderedDict[bytes, None] = OrderedDict()

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._hashes

    def touch(self, digest: bytes) -> None:
        self._hashes[digest] = None
        self._hashes.move_to_end(digest)
        if len(self._hashes) > self._capacity:
            self._hashes.popitem(last=False)


class PrefixShadow:
    """A prefix cache's table without the cache: each block's hash covers every block before it."""

    def __init__(self, capacity_blocks: int = 65_536, block_tokens: int = 16) -> None:
        self._block_tokens = block_tokens
        self._key = secrets.token_bytes(32)
        self._seen = _RecentHashes(capacity_blocks)

    def observe(self, token_ids: Sequence[int]) -> int:
        """How many leading tokens were seen before, in whole blocks; from now on all of these were."""
        chain = list(self._chain(token_ids))
        repeated = next(
            (i for i, digest in enumerate(chain) if digest not in self._seen), len(chain)
        )
        # The first block is touched last: forgetting it before its successors would make them useless.
        for digest in reversed(chain):
            self._seen.touch(digest)
        return repeated * self._block_tokens

    def _chain(self, token_ids: Sequence[int]) -> Iterator[bytes]:
        digest = b""
        for end in range(self._block_tokens, len(token_ids) + 1, self._block_tokens):
            block = array("I", token_ids[end - self._block_tokens : end]).tobytes()
            digest = _hash(digest + block, self._key)
            yield digest


class RequestShadow:
    """A response cache's table without the cache. Only greedy requests have one right answer to keep."""

    def __init__(self, capacity: int = 65_536) -> None:
        self._key = secrets.token_bytes(32)
        self._answered = _RecentHashes(capacity)

    def answered_before(self, request: Request) -> bool:
        return request.sampling.greedy and self._digest(request) in self._answered

    def answered(self, request: Request) -> None:
        """The request got its whole answer."""
        if request.sampling.greedy:
            self._answered.touch(self._digest(request))

    def _digest(self, request: Request) -> bytes:
        sampling = request.sampling
        limits = repr((sampling.max_tokens, sampling.stop, sampling.ignore_eos)).encode()
        return _hash(array("I", request.prompt_token_ids).tobytes() + limits, self._key)


def _hash(data: bytes, key: bytes) -> bytes:
    return hashlib.blake2b(data, key=key, digest_size=_DIGEST_BYTES).digest()
