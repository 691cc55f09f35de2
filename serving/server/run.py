"""A process that serves one model: load it, listen, and at the end let everything come to its end.

serve    from the options to the exit code
"""

import contextlib
import logging
import platform
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from serving.accounting.gpus import gpu_ids
from serving.engine.aside import aside
from serving.engine.config import EngineConfig
from serving.engine.engine import Engine
from serving.engine.prepare import device_for, prepare
from serving.engine.request import EngineFailed
from serving.models.decoder import Decoder
from serving.models.share import WHOLE, Share, join
from serving.parallel.leader import Leader, leading
from serving.parallel.orders import Task
from serving.quantize.model import weight_bytes
from serving.server.app import Access, build_app
from serving.server.http_server import HttpServer
from serving.server.options import ServeOptions
from serving.server.runtime import Served
from serving.server.spans import Device
from serving.server.starting import answering_not_yet
from serving.server.telemetry import Telemetry
from serving.tools.use import ToolUse
from serving.weights import Embedder, LoadedModel, load, load_embedder


def serve(options: ServeOptions) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit code; what is wrong with the options is said on stderr."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    with contextlib.ExitStack() as at_the_end:
        try:
            serving = _started(options, at_the_end)
        except (ValueError, OSError, EngineFailed) as error:
            sys.stderr.write(f"python -m serving: {error}\n")
            return 2
        _run(options, serving)
    return 0


@dataclass(frozen=True, slots=True)
class _Serving:
    """All that a process serves with."""

    listener: socket.socket
    loaded: LoadedModel
    engine: Engine
    embedder: Embedder | None


def _started(options: ServeOptions, at_the_end: contextlib.ExitStack) -> _Serving:
    """Raises ValueError, OSError and EngineFailed with what is wrong with the options, or with a rank."""
    # A taken port is known before minutes of loading, and so are mistakes in the config.
    listener = at_the_end.enter_context(_bind(options.host, options.port))
    config = _engine_config(options)
    with answering_not_yet(listener):
        leader = _leader(options, at_the_end)
        loaded = aside(lambda: _load_part(options, leader))
        draft_model = aside(lambda: _draft_model(options, config))
        engine = aside(
            lambda: Engine(loaded, config, draft_model=draft_model, followers=leader)
        )  # its cache is filled with zeros, by a team of threads
        embedder = aside(lambda: _load_embedder(options))
        _say("warming up …")
        at_the_end.callback(engine.stop)
        engine.start()
    return _Serving(listener, loaded, engine, embedder)


def _leader(options: ServeOptions, at_the_end: contextlib.ExitStack) -> Leader | None:
    """The other ranks, if there are to be any; they load their parts meanwhile. Raises as _started does."""
    ranks = options.tensor_parallel_size
    if ranks == 1:
        return None
    if options.cores:
        raise ValueError(
            f"cores='{options.cores}': pins the threads of one process; "
            f"leave it out with tensor_parallel_size={ranks}, or use taskset"
        )
    task = Task(
        source=options.model,
        dtype=getattr(torch, options.dtype),
        cache_dir=options.cache_dir,
        device=device_for(options.device),
        scheme=options.quantize,
        threads=options.threads,
    )
    return at_the_end.enter_context(leading(task, ranks))


def _bind(host: str, port: int) -> socket.socket:
    """A socket that has its port and does not listen yet. Raises OSError that names both."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror}; try --port 0") from error
    return listener


def _load_part(options: ServeOptions, leader: Leader | None) -> LoadedModel:
    """The model, or this rank's part of it when every rank has its own."""
    if leader is None:
        return _load(options, options.model)
    _say(f"{leader.ranks} ranks, each with a part of every layer")
    loaded = _load(options, options.model, leader.share)
    join(loaded.model)
    leader.wait_until_ready()
    return loaded


def _load(options: ServeOptions, source: str, share: Share = WHOLE) -> LoadedModel:
    _say(f"loading {source} as {options.dtype} …")
    began = time.monotonic()
    dtype: torch.dtype = getattr(torch, options.dtype)
    device = device_for(options.device)
    loaded = load(source, dtype=dtype, cache_dir=options.cache_dir, device=device, share=share)
    parameters = weight_bytes(loaded.model) // dtype.itemsize
    prepare(loaded, scheme=options.quantize)
    _say(f"loaded {parameters / 1e6:.0f} M parameters in {time.monotonic() - began:.1f} s")
    return loaded


def _load_embedder(options: ServeOptions) -> Embedder | None:
    if not options.embedder:
        return None
    _say(f"loading {options.embedder} …")
    return load_embedder(options.embedder, device=device_for(options.device))


def _draft_model(options: ServeOptions, config: EngineConfig) -> Decoder | None:
    source = config.speculation.draft_source if config.speculation else ""
    return _load(options, source).model if source else None


def _engine_config(options: ServeOptions) -> EngineConfig:
    return EngineConfig(
        max_batch_requests=options.max_batch_requests,
        max_batch_tokens=options.max_batch_tokens,
        max_waiting=options.max_waiting,
        first_token_ms=options.first_token_ms,
        inter_token_ms=options.inter_token_ms,
        kv_cache_bytes=options.kv_cache_mib * 2**20,
        kv_cache_dtype=options.kv_cache_dtype,
        prefix_cache=options.prefix_cache,
        speculate=options.speculate,
        threads=options.threads,
        cores=options.cores,
    )


def _run(options: ServeOptions, serving: _Serving) -> None:
    loaded, engine = serving.loaded, serving.engine
    devices = devices_of(loaded, options.tensor_parallel_size)
    telemetry = Telemetry(devices, engine.clocks)
    try:
        served = served_model(loaded, engine, options.served_model_name)
        access = Access(options.api_key)
        app = build_app(served, engine, telemetry, access, embedder=serving.embedder)
        host, port = serving.listener.getsockname()[:2]
        ready = f"ready: {served.name} on http://{host}:{port}/v1 ({served.context_tokens} tokens of context)"
        with _signals_obeyed_once():
            HttpServer(app, options.drain_seconds, lambda: _say(ready)).run([serving.listener])
    finally:
        engine.stop()
        telemetry.close()


def served_model(loaded: LoadedModel, engine: Engine, name: str) -> Served:
    return Served(
        name=name or loaded.name,
        tokenizer=loaded.tokenizer,
        context_tokens=engine.context_tokens,
        vocabulary_tokens=loaded.config.vocab_size,
        tool_use=ToolUse(loaded.tokenizer),
    )


def devices_of(loaded: LoadedModel, ranks: int = 1) -> list[Device]:
    """What computes: one for each rank that has a part of the model."""
    if loaded.model.device.type == "cuda":
        names = gpu_ids(loaded.model.device, ranks)
        first = loaded.model.device.index or 0
        return [_gpu(first + rank, name) for rank, name in enumerate(names)]
    return [
        Device(id=f"{platform.node()}/cpu-{rank}", type="cpu", hw_type="cpu")
        for rank in range(ranks)
    ]


def _gpu(index: int, name: str) -> Device:
    return Device(id=name, type=torch.cuda.get_device_name(index), hw_type="gpu")


@contextlib.contextmanager
def _signals_obeyed_once() -> Iterator[None]:
    """uvicorn raises the signal that stopped it once more when it is done; by then it has been obeyed."""
    stops = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in stops}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


__all__ = ["HttpServer", "devices_of", "serve", "served_model"]
