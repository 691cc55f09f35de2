"""What caches would have saved, if there were any: they keep keyed hashes and never a text.

    PrefixShadow    leading prompt tokens that were seen before
    RequestShadow   greedy requests that were answered before

Keys are random and die with the process, so that a memory dump gives no prompt away by guessing.
"""

import secrets
from array import array
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from serving.engine.prefix import PrefixNames, keyed_digest
from serving.engine.request import Request

_OF_NO_MATTER_TO_GREEDY: Mapping[str, Any] = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "seed": None}


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
        self._names = PrefixNames(block_tokens)
        self._seen = _RecentHashes(capacity_blocks)

    def observe(self, token_ids: Sequence[int]) -> int:
        """How many leading tokens were seen before, in whole blocks; from now on all of these were."""
        chain: list[bytes] = []
        self._names.extend(chain, token_ids)
        repeated = next(
            (i for i, digest in enumerate(chain) if digest not in self._seen), len(chain)
        )
        # The first block is touched last: forgetting it before its successors would make them useless.
        for digest in reversed(chain):
            self._seen.touch(digest)
        return repeated * self._names.block_tokens


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
        asked = replace(request.sampling, **_OF_NO_MATTER_TO_GREEDY)
        prompt = array("I", request.prompt_token_ids).tobytes()
        return keyed_digest(prompt + repr(asked).encode(), self._key)
