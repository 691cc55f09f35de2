"""How large an engine is."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """The sizes of an engine. Raises ValueError where they contradict each other.

    max_batch_tokens     tokens that one step computes at most; longer prompts are cut into chunks
    max_batch_requests   requests that one step serves at most
    kv_blocks            blocks of the KV cache; None: as many as fit into kv_cache_bytes
    block_tokens         tokens in a block
    max_waiting          requests that may wait before more are turned away
    threads              CPU threads of one step; more than the free cores makes it many times slower
    """

    max_batch_tokens: int = 512
    max_batch_requests: int = 16
    kv_blocks: int | None = None
    kv_cache_bytes: int = 256 * 2**20
    block_tokens: int = 16
    max_waiting: int = 256
    threads: int = 1

    def __post_init__(self) -> None:
        sizes = ("max_batch_requests", "kv_cache_bytes", "block_tokens", "max_waiting", "threads")
        for name in sizes:
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected at least 1")
        if self.max_batch_tokens < self.max_batch_requests:
            raise ValueError(
                f"max_batch_tokens={self.max_batch_tokens} is below "
                f"max_batch_requests={self.max_batch_requests}: every request in a step needs a token"
            )
        if self.kv_blocks is not None and self.kv_blocks < 1:
            raise ValueError(f"kv_blocks={self.kv_blocks}: expected at least 1, or None")

    def blocks(self, block_bytes: int) -> int:
        """Blocks of the KV cache, when one takes block_bytes. Raises ValueError when not one fits."""
        blocks = self.kv_cache_bytes // block_bytes if self.kv_blocks is None else self.kv_blocks
        if blocks < 1:
            raise ValueError(
                f"kv_cache_bytes={self.kv_cache_bytes} holds no block; one takes {block_bytes} bytes"
            )
        return blocks
