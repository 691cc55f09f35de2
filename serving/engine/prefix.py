"""Names for prefixes: one digest for each whole block of tokens, covering every block before it.

The key is random and dies with the process, so that a memory dump gives no prompt away by guessing.
"""

import hashlib
import secrets
from array import array
from collections.abc import Sequence

_DIGEST_BYTES = 16


class PrefixNames:
    """Digests of prefixes in blocks of block_tokens."""

    def __init__(self, block_tokens: int) -> None:
        self.block_tokens = block_tokens
        self._key = secrets.token_bytes(32)

    def extend(self, names: list[bytes], token_ids: Sequence[int], kind: bytes = b"") -> None:
        """Add the names of token_ids' whole blocks that names does not hold yet; those it holds are theirs.

        kind   what their keys depend on beside the tokens: prefixes of different kinds have different names.
        """
        size = self.block_tokens
        digest = names[-1] if names else kind
        for start in range(len(names) * size, len(token_ids) - size + 1, size):
            block = array("I", token_ids[start : start + size]).tobytes()
            digest = keyed_digest(digest + block, self._key)
            names.append(digest)


def keyed_digest(data: bytes, key: bytes) -> bytes:
    return hashlib.blake2b(data, key=key, digest_size=_DIGEST_BYTES).digest()
