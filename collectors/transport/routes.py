"""Which requests are inference calls: by the path, which every server of a protocol keeps, whoever's host it is."""

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from urllib.parse import urlsplit


class Protocol(StrEnum):
    """Whose request and response format a path speaks."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    GOOGLE = "google"


@dataclass(frozen=True, slots=True)
class Route:
    """What a path says about a call.

    model         where the path names it: Azure's deployment, Google's model; else empty
    is_ambiguous  other services have such a path, too: the body has to name a model
    """

    protocol: Protocol
    operation: str
    model: str = ""
    streaming: bool | None = None
    is_ambiguous: bool = False


_OPENAI = {
    "/chat/completions": ("chat", False),
    "/completions": ("text_completion", True),
    "/responses": ("chat", True),
    "/embeddings": ("embeddings", True),
}
_DEPLOYMENT = re.compile(r"/deployments/([^/]+)/")
_GOOGLE = re.compile(
    r"/(?:models|endpoints)/([^/:]+):"
    r"(generateContent|streamGenerateContent|embedContent|batchEmbedContents)$"
)

# A host ends in this → gen_ai.provider.name. Whoever else answers is known by server.address.
_PROVIDERS = {
    "api.openai.com": "openai",
    "openai.azure.com": "azure.ai.openai",
    "cognitiveservices.azure.com": "azure.ai.openai",
    "services.ai.azure.com": "azure.ai.inference",
    "models.ai.azure.com": "azure.ai.inference",
    "api.anthropic.com": "anthropic",
    "generativelanguage.googleapis.com": "gcp.gemini",
    "aiplatform.googleapis.com": "gcp.vertex_ai",
    "api.mistral.ai": "mistral_ai",
    "api.deepseek.com": "deepseek",
    "api.groq.com": "groq",
    "api.x.ai": "x_ai",
    "api.perplexity.ai": "perplexity",
    "api.together.xyz": "together",
    "api.fireworks.ai": "fireworks",
    "openrouter.ai": "openrouter",
}
_DEFAULT_PROVIDERS = {
    Protocol.OPENAI: "openai",  # as an instrumented openai client says, whatever server it talks to
    Protocol.ANTHROPIC: "anthropic",
    Protocol.GOOGLE: "gcp.gen_ai",
}


@dataclass(frozen=True, slots=True, eq=False)
class Destination:
    """Where an inference call goes, and what is known of it by that. The same one for the same URL, query aside."""

    route: Route
    provider: str
    host: str
    port: int


@lru_cache(maxsize=1024)
def find_destination(url: str) -> Destination | None:
    """Where a POST to this URL, without its query, goes; None where it is no inference call. Raises ValueError."""
    parts = urlsplit(url)
    route = find_route("POST", parts.path)
    if route is None:
        return None
    host = parts.hostname or ""
    port = parts.port or (80 if parts.scheme == "http" else 443)
    return Destination(route, provider_of(host, route.protocol), host, port)


def find_route(method: str, path: str) -> Route | None:
    """The route of a request, by its path without the query; None where it is no inference call."""
    if method != "POST":
        return None
    path = path.rstrip("/")
    if path.endswith("/v1/messages"):
        return Route(Protocol.ANTHROPIC, "chat")
    if ":" in path:
        return _google(path)
    return _openai(path)


def _openai(path: str) -> Route | None:
    for ending, (operation, is_ambiguous) in _OPENAI.items():
        if path.endswith(ending):
            deployment = _DEPLOYMENT.search(path)
            model = deployment[1] if deployment else ""
            return Route(Protocol.OPENAI, operation, model, None, is_ambiguous and not model)
    return None


def _google(path: str) -> Route | None:
    found = _GOOGLE.search(path)
    if found is None:
        return None
    model, verb = found.groups()
    if "mbed" in verb:
        return Route(Protocol.GOOGLE, "embeddings", model, False)
    return Route(Protocol.GOOGLE, "generate_content", model, verb.startswith("stream"))


def provider_of(host: str, protocol: Protocol) -> str:
    """gen_ai.provider.name: by the host where it is a known one, else the protocol's own."""
    for ending, provider in _PROVIDERS.items():
        if host == ending or host.endswith(("." + ending, "-" + ending)):
            return provider
    return _DEFAULT_PROVIDERS[protocol]
