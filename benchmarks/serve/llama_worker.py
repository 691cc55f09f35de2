"""A process that answers by llama.cpp, in an environment that has the package xllamacpp and nothing of ours.

    ENV/bin/python llama_worker.py MODEL.gguf THREADS FLASH_ATTENTION

Speaks as engine_worker.py does. Prompts are answered one after the other. {"about": true} says how the library was built.
"""

import contextlib
import json
import os
import sys
import time
from typing import Any

import xllamacpp

_CONTEXT_TOKENS = 2048


def server_of(file: str, threads: int, flash_attention: str) -> xllamacpp.Server:
    params = xllamacpp.CommonParams()
    params.model.path = file
    params.n_ctx = _CONTEXT_TOKENS
    params.n_parallel = 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.flash_attn_type = getattr(
        xllamacpp.llama_flash_attn_type, f"LLAMA_FLASH_ATTN_TYPE_{flash_attention}"
    )
    params.cache_ram_mib = 0
    params.ui = False
    return xllamacpp.Server(params)


def answer(server: xllamacpp.Server, ask: dict[str, Any]) -> dict[str, float]:
    """Times are the caller's, as with the others; what the library says of itself leaves its own overhead out."""
    began = time.perf_counter()
    stamps: list[float] = []
    for prompt in ask["prompts"]:
        body = {
            "prompt": prompt,
            "n_predict": ask["answer_tokens"],
            "temperature": 0,
            "top_k": 1,
            "samplers": ["top_k"],
            "ignore_eos": True,
            "cache_prompt": False,
            "stream": True,
        }
        server.handle_completions(body, lambda piece: _stamp(piece, stamps))
    return {
        "first_seconds": stamps[0] - began,
        "all_seconds": stamps[-1] - began,
        "tokens": len(ask["prompts"]) * ask["answer_tokens"],
    }


def _stamp(piece: Any, stamps: list[float]) -> None:
    if isinstance(piece, dict) and "error" in piece:
        raise RuntimeError(str(piece))
    stamps.append(time.perf_counter())


def main() -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the library prints on stdout
    file, threads, flash_attention = sys.argv[1:]
    server = server_of(file, int(threads), flash_attention)
    for line in sys.stdin:
        ask = json.loads(line)
        try:
            said = {"about": about()} if "about" in ask else answer(server, ask)
        except Exception as error:
            said = {"error": f"{type(error).__name__}: {error}"}
        out.write(json.dumps(said) + "\n")
        out.flush()


def about() -> str:
    with contextlib.suppress(AttributeError):
        return f"xllamacpp {xllamacpp.__version__}, {xllamacpp.get_system_info().strip(' |')}"
    return "xllamacpp"


if __name__ == "__main__":
    main()
