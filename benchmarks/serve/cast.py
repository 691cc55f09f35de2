"""Who takes part, under the names that the rows have for them."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.serve import peers
from benchmarks.serve.gguf_bf16 import write_bf16
from benchmarks.serve.peers import Setting, Start
from benchmarks.serve.rows import (
    ATTENTIONS,
    ENGINE,
    GENERATE,
    LLAMA,
    LLAMA_BF16,
    SERVE,
    SERVE_CONTINUOUS,
    SERVER,
    VLLM,
    party,
)
from serving.weights.source import source_path


@dataclass(frozen=True, slots=True)
class Environments:
    """Where peers are installed; None: they are not measured."""

    transformers: Path | None
    vllm: Path | None
    llama: Path | None


def cast(where: Environments, setting: Setting) -> tuple[dict[str, Start], dict[str, str]]:
    """How each is started, and why others are not."""
    starts: dict[str, Start] = {SERVER: peers.our_server(setting)}
    why_not: dict[str, str] = {}
    for threads in {setting.threads, 1}:
        starts[party(ENGINE, threads)] = peers.engine(setting, threads)
        starts[party(GENERATE, threads)] = peers.generate(setting, threads)
    for name, continuous in ((SERVE_CONTINUOUS, True), (SERVE, False)):
        if where.transformers:
            starts[name] = peers.transformers_serve(
                where.transformers, setting, continuous=continuous
            )
        else:
            why_not[name] = "no --transformers ENV was named"
    if where.vllm:
        starts[VLLM] = peers.vllm(where.vllm, setting)
    else:
        why_not[VLLM] = "no --vllm ENV was named"
    return starts | _llamas(where.llama, setting, why_not), why_not


def _llamas(
    environment: Path | None, setting: Setting, why_not: dict[str, str]
) -> dict[str, Start]:
    file = source_path(setting.model)
    names = [(kind, threads) for kind in (LLAMA, LLAMA_BF16) for threads in (setting.threads, 1)]
    if environment is None or file.suffix != ".gguf":
        reason = "the model is no GGUF file" if environment else "no --llama ENV was named"
        for kind, threads in names:
            why_not |= {party(f"{kind}, {one}", threads): reason for one in ATTENTIONS}
        return {}
    files = {LLAMA: file, LLAMA_BF16: write_bf16(file, setting.cache_dir / "bf16.gguf")}
    return {
        party(f"{kind}, {name}", threads): peers.llama(
            environment, files[kind], threads, flash_attention=flash
        )
        for kind, threads in names
        for name, flash in ATTENTIONS.items()
        if kind == LLAMA or threads == setting.threads
    }
