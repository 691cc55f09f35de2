"""Which way is held against which, and what the ratio is to be."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.serve.works import Way, Work, answer_rate, decode_rate, prompt_rate

ENGINE, GENERATE, SERVER = "engine", "transformers", "server"
SERVE, SERVE_CONTINUOUS = "transformers serve", "transformers serve, continuous batching"
VLLM, LLAMA, LLAMA_BF16 = "vLLM", "llama.cpp", "llama.cpp bf16"
ATTENTIONS = {"flash attention": True, "no flash attention": False}

NO_SCHEME = {"scheme": "", "prefix_cache": True}


@dataclass(frozen=True, slots=True)
class Sizes:
    prompt_tokens: int
    answer_tokens: int
    prefill_tokens: int
    own_tokens: int  # behind a shared prefix of prefill_tokens
    streams: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Row:
    """peers: ways of the same peer with other settings; in each round the best of them counts."""

    work: str
    peer: str
    ours: Way
    peers: tuple[Way, ...]
    least: float
    aim: float


def rows(sizes: Sizes, threads: int) -> list[Row]:
    """Everything that is measured. Batch 1 also with one thread: two that wait for each other may be slower."""
    alone = Work("1 request", 1, sizes.prompt_tokens, sizes.answer_tokens, decode_rate)
    return [
        *(row for each in sorted({threads, 1}, reverse=True) for row in _batch_1(alone, each)),
        *(row for streams in sizes.streams for row in _streams(sizes, streams, threads)),
        _prefill(sizes, threads),
        _shared_prefix(sizes, threads),
        _http(sizes, threads),
    ]


def party(name: str, threads: int) -> str:
    return f"{name}, {threads} threads" if threads > 1 else f"{name}, 1 thread"


def _batch_1(alone: Work, threads: int) -> list[Row]:
    def row(scheme: str, peer: str, peers: Sequence[Way], least: float, aim: float) -> Row:
        title = f"batch 1 decode, {scheme or 'bf16'}, {threads} thread{'s' * (threads > 1)}"
        return Row(
            title,
            peer,
            Way(alone, party(ENGINE, threads), {"scheme": scheme, "prefix_cache": True}),
            tuple(peers),
            least,
            aim,
        )

    generate = _generate(alone, threads)
    llama = [Way(alone, party(f"{LLAMA}, {attention}", threads)) for attention in ATTENTIONS]
    return [
        row("", "transformers", generate, 1.1, 1.5),
        row("int8", "transformers bf16", generate, 2, 3),
        row("int4", "transformers bf16", generate, 3, 4.5),
        row("int4-dynamic", "llama.cpp, the same GGUF (Q4_1)", llama, 0.7, 1.0),
    ]


def _generate(work: Work, threads: int) -> list[Way]:
    """transformers by each of its attentions that run on a CPU."""
    names = ("sdpa", "eager")
    return [Way(work, party(GENERATE, threads), {"attention": name}) for name in names]


def _streams(sizes: Sizes, streams: int, threads: int) -> list[Row]:
    work = Work(
        f"{streams} streams", streams, sizes.prompt_tokens, sizes.answer_tokens, answer_rate
    )
    title = f"{streams} streams through HTTP, bf16"
    ours = Way(work, SERVER)
    served = tuple(Way(work, name) for name in (SERVE_CONTINUOUS, SERVE))
    static = tuple(_generate(work, threads))
    return [
        Row(title, "transformers serve", ours, served, 1.3, 3),
        Row(title, f"transformers generate, one batch of {streams}, no HTTP", ours, static, 1.3, 3),
        Row(title, "vLLM", ours, (Way(work, VLLM),), 0.8, 1.2),
    ]


def _prefill(sizes: Sizes, threads: int) -> Row:
    work = Work("prefill", 1, sizes.prefill_tokens, 1, prompt_rate)
    names = [f"{LLAMA_BF16}, {attention}" for attention in ATTENTIONS]
    return Row(
        f"prefill of {sizes.prefill_tokens} tokens, bf16",
        "llama.cpp, bf16",
        Way(work, party(ENGINE, threads), NO_SCHEME),
        tuple(Way(work, party(name, threads)) for name in names),
        2,
        3,
    )


def _shared_prefix(sizes: Sizes, threads: int) -> Row:
    tokens = sizes.prefill_tokens + sizes.own_tokens
    work = Work("shared prefix", 16, tokens, 1, prompt_rate, shared_tokens=sizes.prefill_tokens)
    ours = party(ENGINE, threads)
    return Row(
        f"16 new requests, a shared prefix of {sizes.prefill_tokens} tokens and {sizes.own_tokens} of their own",
        "itself without prefix cache",
        Way(work, ours, NO_SCHEME),
        (Way(work, ours, {"scheme": "", "prefix_cache": False}),),
        5,
        10,
    )


def _http(sizes: Sizes, threads: int) -> Row:
    streams = sizes.streams[-1]
    work = Work(
        f"{streams} streams", streams, sizes.prompt_tokens, sizes.answer_tokens, answer_rate
    )
    direct = Way(work, party(ENGINE, threads), NO_SCHEME)
    return Row(
        f"{streams} streams through HTTP, bf16",
        "the engine called directly",
        Way(work, SERVER),
        (direct,),
        0.85,
        0.97,
    )


def ways_of(all_rows: Sequence[Row]) -> list[Way]:
    """Each once, in the order of the rows."""
    found: Mapping[str, Way] = {way.name: way for row in all_rows for way in (row.ours, *row.peers)}
    return list(found.values())
