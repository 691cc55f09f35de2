"""How large an engine is."""

from dataclasses import dataclass

from serving.engine.cores import read_cores
from serving.engine.speculate import Speculation, read_speculation
from serving.engine.targets import Targets

KV_CACHE_DTYPES = ("auto", "int8", "fp8")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """The sizes of an engine. Raises ValueError where they contradict each other.

    max_batch_tokens     tokens that one step computes at most; longer prompts are cut into chunks
    max_batch_requests   requests that one step serves at most
    kv_blocks            blocks of the KV cache; None: as many as fit into kv_cache_bytes
    block_tokens         tokens in a block
    max_waiting          requests that may wait before more are turned away
    threads              CPU threads of one step; more than the free cores makes it many times slower. With cores it
                         is how many they are
    cores                the cores that these threads are pinned to, one each, such as "0-3,6"; "": the system chooses
    prefix_cache         prompts that begin alike share blocks, and what is in the cache is not computed again
    kv_cache_dtype       "auto" is the model's; "int8" and "fp8" hold twice as many tokens and round them
    speculate            "ngram:4" proposes what the text itself repeats, "draft:SOURCE:4" what the small model SOURCE
                         says; "" nothing. Answers are the same with each of them
    cuda_graphs          replay recorded steps of answers instead of launching kernel by kernel; None: on a GPU
    attribution          share each step's time out to its requests; without it all time is unattributed, which is there
                         to measure what sharing takes
    first_token_ms       time from an interactive request's arrival to its first token: while it is at risk, prompts of
                         batch requests wait; 0: nothing is promised
    inter_token_ms       time between two tokens of an interactive answer that prompts beside it are cut for; 0: prompts
                         are cut by max_batch_tokens only
    overlap              plan the next step while the device works on the last one; None: on a GPU
    """

    max_batch_tokens: int = 512
    max_batch_requests: int = 16
    kv_blocks: int | None = None
    kv_cache_bytes: int = 256 * 2**20
    block_tokens: int = 16
    max_waiting: int = 256
    threads: int = 1
    cores: str = ""
    prefix_cache: bool = True
    kv_cache_dtype: str = "auto"
    speculate: str = ""
    cuda_graphs: bool | None = None
    attribution: bool = True
    first_token_ms: int = 0
    inter_token_ms: int = 0
    overlap: bool | None = None

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
        for name in ("first_token_ms", "inter_token_ms"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: expected at least 0")
        if self.kv_blocks is not None and self.kv_blocks < 1:
            raise ValueError(f"kv_blocks={self.kv_blocks}: expected at least 1, or None")
        if self.kv_cache_dtype not in KV_CACHE_DTYPES:
            raise ValueError(
                f"kv_cache_dtype={self.kv_cache_dtype!r}: expected one of {', '.join(KV_CACHE_DTYPES)}"
            )
        read_speculation(self.speculate)
        read_cores(self.cores)

    @property
    def speculation(self) -> Speculation | None:
        return read_speculation(self.speculate)

    @property
    def targets(self) -> Targets:
        return Targets(self.first_token_ms * 1_000_000, self.inter_token_ms * 1_000_000)

    def overlaps(self, device_type: str) -> bool:
        """Whether the next step begins before the last one is looked at."""
        return device_type == "cuda" if self.overlap is None else self.overlap

    def blocks(self, block_bytes: int) -> int:
        """Blocks of the KV cache, when one takes block_bytes. Raises ValueError when not one fits."""
        blocks = self.kv_cache_bytes // block_bytes if self.kv_blocks is None else self.kv_blocks
        if blocks < 1:
            raise ValueError(
                f"kv_cache_bytes={self.kv_cache_bytes} holds no block; one takes {block_bytes} bytes"
            )
        return blocks

    def replayed_requests(self, device_type: str) -> int:
        """Rows of the largest step that is replayed: every request's token, and drafts behind it. 0: none is."""
        wanted = device_type == "cuda" if self.cuda_graphs is None else self.cuda_graphs
        drafts = self.speculation.tokens if self.speculation else 0
        return self.max_batch_requests * (1 + drafts) if wanted else 0
