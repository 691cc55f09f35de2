"""How telemetry gets here: what empty pages and the settings page tell a person to set."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from django.conf import settings
from django.http import HttpRequest

# OpenTelemetry's own ports.
HTTP_PORT = 4318
GRPC_PORT = 4317


@dataclass(frozen=True, slots=True)
class OtlpDoors:
    """Where each door of the receiver is."""

    http_url: str
    grpc_url: str  # empty: nobody said that there is one


def otlp_doors(request: HttpRequest) -> OtlpDoors:
    """As COSTWATCH_OTLP_URL and COSTWATCH_OTLP_GRPC_URL say; without either, the usual ports of the page's own host."""
    http_url: str = settings.COSTWATCH_OTLP_URL
    grpc_url: str = settings.COSTWATCH_OTLP_GRPC_URL
    here = urlsplit(request.build_absolute_uri("/"))
    host = f"[{here.hostname}]" if ":" in (here.hostname or "") else here.hostname
    if not http_url and not grpc_url:
        grpc_url = f"{here.scheme}://{host}:{GRPC_PORT}"
    return OtlpDoors(http_url or f"{here.scheme}://{host}:{HTTP_PORT}", grpc_url)
