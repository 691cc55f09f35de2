"""Calls to providers as they pass an HTTP client: for what is called without a library that somebody instruments.

routes     which path is an inference call of which protocol
asked      what its request asks for
excerpt    the head and the tail of the answer, decoded
answers    id, model and usage in them
live       whether an instrumentation is watching the call already
fingerprinting    keyed hashes of what is asked
held       how much of them waits to be read
call       from the request to the answer's last byte
spans      what becomes of it
httpx_clients, urllib3_pools, aiohttp_sessions    where it passes
"""

import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from opentelemetry.sdk.trace import TracerProvider

from collectors.batches import KeepSpans
from collectors.imports import when_imported
from collectors.transport import call
from collectors.transport.call import drain
from collectors.transport.fingerprinting import use_fingerprints
from collectors.transport.live import SCOPE, RememberLive

# A client's module → ours.
CLIENTS: Mapping[str, str] = {
    "httpx": "httpx_clients",
    "httpx2": "httpx_clients",
    "urllib3": "urllib3_pools",
    "aiohttp": "aiohttp_sessions",
}
NOT_WATCHED = "urllib.request, http.client, gRPC"

__all__ = ["CLIENTS", "NOT_WATCHED", "drain", "switch_on", "use_fingerprints"]

_watched: set[str] = set()


def switch_on(tracer_provider: TracerProvider, *, keep: KeepSpans | None = None) -> dict[str, str]:
    """Make spans of the calls that pass the installed HTTP clients, from their import on. Returns their versions.

    keep   the provider's processor that sends what ends; its thread calls drain(), which makes the spans. None: spans are
           made where calls end
    """
    tracer_provider.add_span_processor(RememberLive())
    wake = None if keep is None else keep.wake
    call.use_tracer(tracer_provider.get_tracer(SCOPE), wake=wake, keep=keep)
    installed = _installed()
    for client in installed:
        if client not in _watched:
            _watched.add(client)
            _patch_when_imported(client)
    return installed


def _installed() -> dict[str, str]:
    found = {}
    for client in CLIENTS:
        try:
            found[client] = version(client)
        except PackageNotFoundError:
            continue
    return found


def _patch_when_imported(client: str) -> None:
    def patch(module: ModuleType) -> None:
        try:
            import_module(f"collectors.transport.{CLIENTS[client]}").patch(module)
        except Exception as error:  # another version than the ones we know; the application goes on
            print(f"costwatch: does not see calls of {client}: {error!r}", file=sys.stderr)  # noqa: T201

    when_imported(client, patch)
