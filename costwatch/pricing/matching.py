"""From what telemetry calls a provider and a model to what the catalogue calls them.

The rules are genai-prices' own: each of its models says which names mean it.
"""

from __future__ import annotations

from functools import lru_cache

from genai_prices.data_snapshot import get_snapshot

# OpenTelemetry's names of providers that genai-prices' rules do not know, or take for another.
_PROVIDERS = {
    "azure.ai.openai": "azure",
    "azure.ai.inference": "azure",
    "x_ai": "x-ai",
    "moonshot_ai": "moonshotai",
}

# What providers call their ordinary service. Any other tier has its own prices, or none that we know.
_STANDARD = frozenset({"", "default", "standard", "auto", "on_demand", "on-demand", "ondemand"})


def tier_of(service_tier: str) -> str:
    """The tier as prices know it; empty is standard."""
    tier = service_tier.strip().lower()
    return "" if tier in _STANDARD else tier


@lru_cache(maxsize=20_000)
def names_of(provider: str, response_model: str, request_model: str) -> tuple[tuple[str, str], ...]:
    """(provider, model) in lower case, under which a price may be found, the most specific first.

    As telemetry says them, then as the catalogue does; the model that answered before the one that was asked for
    (which may be an alias, or the name of a deployment). A provider that nobody named has no prices: the same model
    costs differently elsewhere, or runs on one's own machine.
    """
    said = provider.strip().lower()
    models = [name.strip().lower() for name in (response_model, request_model) if name.strip()]
    if not said:
        return ()
    names = [(said, model) for model in models]
    names += [found for model in models if (found := catalogued(said, model)) is not None]
    return tuple(dict.fromkeys(names))


@lru_cache(maxsize=20_000)
def company_of(provider: str) -> str:
    """Who asks for the money: one name for all that telemetry and bills call a provider."""
    said = provider.strip().lower()
    try:
        return str(get_snapshot().find_provider(None, _PROVIDERS.get(said, said), None).id)
    except LookupError:
        return said


def catalogued(provider: str, model: str) -> tuple[str, str] | None:
    """The catalogue's provider and model ids in lower case; None where it does not know the model.

    A provider that offers another one's models (Azure, OpenAI's) may have that one's prices.
    """
    try:
        _, found = get_snapshot().find_provider_model(
            model, None, _PROVIDERS.get(provider, provider), None
        )
    except LookupError:
        return None
    owner = next(p for p in get_snapshot().providers if any(found is m for m in p.models))
    return owner.id.lower(), found.id.lower()
