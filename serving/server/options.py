"""What `python -m serving` can be told, by options or by the environment. An option goes before its variable.

The API key comes from the environment only: what stands on a command line, everybody on the machine can read.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from serving.engine.config import KV_CACHE_DTYPES

_ENV = "COSTWATCH_RUNTIME_"
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """served_model_name empty: the model's own name. api_key empty: none is asked for."""

    model: str
    host: str
    port: int
    dtype: str
    device: str
    tensor_parallel_size: int
    quantize: str
    embedder: str
    threads: int
    cores: str
    cache_dir: Path | None
    served_model_name: str
    max_batch_requests: int
    max_batch_tokens: int
    max_waiting: int
    first_token_ms: int
    inter_token_ms: int
    kv_cache_mib: int
    kv_cache_dtype: str
    prefix_cache: bool
    speculate: str
    drain_seconds: int
    api_key: str


def read_options(arguments: Sequence[str], environment: Mapping[str, str]) -> ServeOptions:
    """Exits with what is wrong on stderr, as command lines do."""
    parser = _Parser(environment)
    parser.add("--model", str, None, "a Hugging Face folder, a .gguf file, or package:NAME")
    parser.add("--host", str, "127.0.0.1", "address to listen on")
    parser.add("--port", _whole("a port, 0 for a free one", 0, 65_535), 8100, "port to listen on")
    parser.add("--dtype", _one_of(DTYPES), "bfloat16", f"one of {', '.join(DTYPES)}")
    parser.add("--device", str, "auto", "cpu, cuda, or auto: a GPU where there is one")
    parser.add(
        "--tensor-parallel-size",
        _positive,
        1,
        "GPUs of this machine that compute the model together, each with a part of every layer",
    )
    parser.add(
        "--quantize",
        str,
        "",
        "weights in fewer bits: int8, int4, fp8 and what else serving.quantize has",
    )
    parser.add("--embedder", str, "", "a second model, for /v1/embeddings; none by default")
    parser.add("--threads", _positive, 1, "CPU threads; leave a core to the rest of the machine")
    parser.add("--cores", str, "", "cores to pin them to, such as 0-3,6; one thread is on each")
    parser.add("--cache-dir", Path, None, "where converted weights are kept for the next start")
    parser.add("--served-model-name", str, "", "the name that clients ask for")
    parser.add("--max-batch-requests", _positive, 16, "requests that one step serves at most")
    parser.add("--max-batch-tokens", _positive, 512, "tokens that one step computes at most")
    parser.add("--max-waiting", _positive, 256, "requests that may wait; more get 429")
    parser.add(
        "--first-token-ms",
        _whole("milliseconds, 0 for no target", 0, 600_000),
        0,
        "to the first token of an interactive answer: while it is at risk, batch prompts wait",
    )
    parser.add(
        "--inter-token-ms",
        _whole("milliseconds, 0 for no target", 0, 60_000),
        0,
        "between two tokens of an interactive answer: prompts beside it are cut so that it holds",
    )
    parser.add("--kv-cache-mib", _positive, 256, "memory for keys and values, on each device")
    parser.add(
        "--kv-cache-dtype",
        _one_of(KV_CACHE_DTYPES),
        "auto",
        "auto: the model's; int8 and fp8 hold twice as many tokens, rounded",
    )
    parser.add(
        "--prefix-cache", _yes_or_no, True, "yes or no: prompts that begin alike are computed once"
    )
    parser.add(
        "--speculate",
        str,
        "",
        "ngram:4, or draft:MODEL:4 with a small model that proposes; answers stay the same",
    )
    parser.add("--drain-seconds", _positive, 30, "time for open requests when told to stop")
    return parser.read(arguments)


class _Parser:
    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._parser = argparse.ArgumentParser(
            prog="python -m serving",
            description="Serve a model over an OpenAI-compatible API, and say what each request cost. "
            f"Each option is also read from {_ENV}NAME, the API key from {_ENV}API_KEY or the file "
            f"{_ENV}API_KEY_FILE, and where telemetry goes from OpenTelemetry's OTEL_* variables.",
        )

    def add(self, name: str, kind: Callable[[str], object], default: object, help: str) -> None:
        variable = _ENV + name.removeprefix("--").replace("-", "_").upper()
        said = self._environment.get(variable)
        self._parser.add_argument(
            name,
            type=kind,
            default=self._converted(variable, said, kind) if said else default,
            required=name == "--model" and not said,
            help=help,
        )

    def _converted(self, variable: str, said: str, kind: Callable[[str], object]) -> object:
        try:
            return kind(said)
        except argparse.ArgumentTypeError as error:
            self._parser.error(f"{variable}={error}")

    def read(self, arguments: Sequence[str]) -> ServeOptions:
        parsed = vars(self._parser.parse_args(arguments))
        try:
            return ServeOptions(**parsed, api_key=_api_key(self._environment))
        except OSError as error:
            self._parser.error(f"{_ENV}API_KEY_FILE cannot be read: {error}")


def _api_key(environment: Mapping[str, str]) -> str:
    file = environment.get(f"{_ENV}API_KEY_FILE")
    return Path(file).read_text().strip() if file else environment.get(f"{_ENV}API_KEY", "")


def _whole(expected: str, at_least: int, at_most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isdecimal() or not at_least <= int(text) <= at_most:
            raise argparse.ArgumentTypeError(f"'{text}': expected {expected}")
        return int(text)

    return read


_positive = _whole("a whole number of at least 1", 1, 2**31)


def _one_of(words: Sequence[str]) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in words:
            raise argparse.ArgumentTypeError(f"'{text}': expected one of {', '.join(words)}")
        return text

    return read


def _yes_or_no(text: str) -> bool:
    if text not in ("yes", "no"):
        raise argparse.ArgumentTypeError(f"'{text}': expected yes or no")
    return text == "yes"


__all__ = ["DTYPES", "ServeOptions", "read_options"]
