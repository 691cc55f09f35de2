"""How the parties are started: ours, and the peers that the caller named environments of."""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serve.parties import HttpServer, NotMeasured, Party, Worker, free_port

MAX_STREAMS = 32
_LLAMA = Path(__file__).with_name("llama_worker.py")
_CONTEXT_TOKENS = "2048"
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
_PRELOADED = ("libtcmalloc_minimal.so.4", "libiomp5.so")

Start = Callable[[], Party]


@dataclass(frozen=True, slots=True)
class Setting:
    """What all have in common. folder: the model as Hugging Face has one."""

    model: str
    folder: Path
    cache_dir: Path
    dtype: str
    threads: int

    @property
    def cores(self) -> list[int]:
        """Those that a peer is bound to which wants to be."""
        return sorted(os.sched_getaffinity(0))[: self.threads]


def engine(setting: Setting, threads: int) -> Start:
    return lambda: _worker("engine", setting, threads)


def generate(setting: Setting, threads: int) -> Start:
    return lambda: _worker("transformers", setting, threads)


def _worker(kind: str, setting: Setting, threads: int) -> Worker:
    command = [sys.executable, "-m", f"benchmarks.serve.{kind}_worker", setting.model]
    return Worker([*command, setting.cache_dir, setting.dtype, str(threads)], _OFFLINE)


def our_server(setting: Setting) -> Start:
    def start() -> Party:
        port = free_port()
        command = [sys.executable, "-m", "serving", "--model", setting.model, "--port", str(port)]
        command += ["--threads", str(setting.threads), "--max-batch-requests", str(MAX_STREAMS)]
        command += ["--dtype", setting.dtype, "--cache-dir", str(setting.cache_dir)]
        command += ["--served-model-name", "model"]
        return HttpServer(
            command,
            {"OTEL_SDK_DISABLED": "true"},
            model="model",
            port=port,
            extra={"ignore_eos": True, "stream_options": {"include_usage": True}},
        )

    return start


def transformers_serve(environment: Path, setting: Setting, *, continuous: bool) -> Start:
    """Its own cache is sized for what is asked; by itself it takes more memory than a small machine has."""
    batching = ["--continuous-batching", "--cb-num-blocks", "128", "--cb-max-batch-tokens", "512"]

    def start() -> Party:
        port = free_port()
        command = [_python(environment), "-m", "transformers.cli.transformers", "serve"]
        command += [setting.folder, "--port", str(port), "--dtype", setting.dtype]
        command += ["--device", "cpu", *(batching if continuous else [])]
        return HttpServer(
            command,
            {**_OFFLINE, "OMP_NUM_THREADS": str(setting.threads)},
            model=str(setting.folder),
            port=port,
            extra={"generation_config": '{"eos_token_id": -1, "do_sample": false}'},
        )

    return start


def vllm(environment: Path, setting: Setting) -> Start:
    def start() -> Party:
        port = free_port()
        command = [_python(environment), "-m", "vllm.entrypoints.openai.api_server"]
        command += ["--model", setting.folder, "--served-model-name", "model"]
        command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", setting.dtype]
        command += ["--max-model-len", _CONTEXT_TOKENS, "--max-num-seqs", str(MAX_STREAMS)]
        command += ["--disable-log-stats", "--disable-uvicorn-access-log"]
        return HttpServer(
            command,
            _vllm_environment(environment, setting),
            model="model",
            port=port,
            extra={"ignore_eos": True, "stream_options": {"include_usage": True}},
        )

    return start


def preloaded(environment: Path) -> list[Path]:
    """The libraries that vLLM's documentation wants in front of every other, where the environment has them."""
    return [path for name in _PRELOADED for path in environment.glob(f"lib/**/{name}")]


def _vllm_environment(environment: Path, setting: Setting) -> Mapping[str, str]:
    return {
        **_OFFLINE,
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, setting.cores)),
        "VLLM_NO_USAGE_STATS": "1",
        "LD_PRELOAD": ":".join(map(str, preloaded(environment))),
    }


def llama(environment: Path, file: Path, threads: int, *, flash_attention: bool) -> Start:
    wanted = "ENABLED" if flash_attention else "DISABLED"
    return lambda: Worker(
        [_python(environment), _LLAMA, file, str(threads), wanted], {}, says_how_built=True
    )


def _python(environment: Path) -> Path:
    python = environment / "bin" / "python"
    if not python.exists():
        raise NotMeasured(f"there is no Python environment at '{environment}'")
    return python
