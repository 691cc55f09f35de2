"""How telemetry gets here: what empty pages and the settings page tell a person to set."""

from urllib.parse import urlsplit

from django.conf import settings
from django.http import HttpRequest

OTLP_PORT = 4318  # OpenTelemetry's own for HTTP


def otlp_endpoint(request: HttpRequest) -> str:
    """The OTLP door: COSTWATCH_OTLP_URL where it is set, else the usual port of the host that the person came to."""
    configured: str = settings.COSTWATCH_OTLP_URL
    if configured:
        return configured
    here = urlsplit(request.build_absolute_uri("/"))
    host = f"[{here.hostname}]" if ":" in (here.hostname or "") else here.hostname
    return f"{here.scheme}://{host}:{OTLP_PORT}"
