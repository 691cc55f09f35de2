"""Anthropic's bill: GET /v1/organizations/cost_report, and what was used from /v1/organizations/usage_report/messages.

Both come in days of UTC. Amounts are decimal text in cents. The Priority tier is not in the cost report: it is paid
for by commitment.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from collectors.providers.lines import (
    CACHE_READ,
    CACHE_WRITE,
    INPUT,
    LONG_CONTEXT,
    ONE_HOUR,
    OUTPUT,
    BillLine,
    amount_of,
    tiers,
    with_quantities,
)
from collectors.providers.reports import Api

PROVIDER = "anthropic"
URL = "https://api.anthropic.com"
KEY_HINT = "an admin key (sk-ant-admin…) of an organization; an ordinary key will not do"

_COSTS = "/v1/organizations/cost_report"
_USAGE = "/v1/organizations/usage_report/messages"
_VERSION = "2023-06-01"
_DAYS_A_PAGE = "31"
_CENTS = Decimal(1).scaleb(-2)

_UNCACHED = "uncached_input_tokens"
_READ = "cache_read_input_tokens"
_WRITTEN_5M = "cache_creation.ephemeral_5m_input_tokens"
_WRITTEN_1H = "cache_creation.ephemeral_1h_input_tokens"
_OUTPUT = "output_tokens"
_METERS = {
    _UNCACHED: INPUT,
    _READ: CACHE_READ,
    _WRITTEN_5M: CACHE_WRITE,
    _WRITTEN_1H: CACHE_WRITE,
    _OUTPUT: OUTPUT,
}
_LONG = "200k-1M"
_EVERYWHERE = {"", "global", "not_available"}


def api(key: str, url: str = URL, **how: Any) -> Api:
    """Raises CannotFetch for what is no key."""
    headers = {"x-api-key": key, "anthropic-version": _VERSION}
    return Api("Anthropic", url, headers, key, KEY_HINT, **how)


def bill(anthropic: Api, first: date, last: date) -> list[BillLine]:
    """The lines of all days from first to last, both included. Raises CannotFetch."""
    grouped = ("workspace_id", "description")
    with anthropic.reading(_COSTS):
        lines = [_line(*found) for found in _results(anthropic, _COSTS, first, last, grouped)]
    if not any(line.meter for line, _ in lines):
        return [line for line, _ in lines]
    with anthropic.reading(_USAGE):
        return with_quantities(lines, _used(anthropic, first, last))


def _line(day: date, result: Mapping[str, Any]) -> tuple[BillLine, Hashable]:
    currency = str(result["currency"]).upper()
    if currency != "USD":  # whose smallest unit is a cent; another's may not be
        raise ValueError(f"currency {currency!r}: expected USD")
    token_type, context = _text(result, "token_type"), _text(result, "context_window")
    tier = _text(result, "service_tier")
    line = BillLine(
        provider=PROVIDER,
        day=day,
        project=_text(result, "workspace_id"),
        text=_text(result, "description") or _text(result, "cost_type"),
        model=_text(result, "model"),
        meter=_METERS.get(token_type, ""),
        service_tier=_tier(result, token_type),
        quantity=None,
        amount=amount_of(result["amount"]) * _CENTS,
        currency=currency,
    )
    return line, (day, line.project, line.model, token_type, tier, context)


def _tier(result: Mapping[str, Any], token_type: str) -> str:
    tier, place = _text(result, "service_tier"), _text(result, "inference_geo")
    return tiers(
        "" if tier == "standard" else tier,
        LONG_CONTEXT if _text(result, "context_window") == _LONG else "",
        ONE_HOUR if token_type == _WRITTEN_1H else "",
        "" if place in _EVERYWHERE else place,
    )


def _used(anthropic: Api, first: date, last: date) -> dict[Hashable, int]:
    """Tokens by the keys of _line()."""
    counted: dict[Hashable, int] = {}
    grouped = ("workspace_id", "model", "service_tier", "context_window")
    for day, result in _results(anthropic, _USAGE, first, last, grouped):
        named = _text(result, "workspace_id"), _text(result, "model")
        tier, context = _text(result, "service_tier"), _text(result, "context_window")
        for token_type, tokens in _counts(result):
            key = (day, *named, token_type, tier, context)
            counted[key] = counted.get(key, 0) + tokens
    return counted


def _counts(result: Mapping[str, Any]) -> list[tuple[str, int]]:
    written = result.get("cache_creation") or {}
    return [
        (_UNCACHED, int(result.get(_UNCACHED) or 0)),
        (_READ, int(result.get(_READ) or 0)),
        (_WRITTEN_5M, int(written.get("ephemeral_5m_input_tokens") or 0)),
        (_WRITTEN_1H, int(written.get("ephemeral_1h_input_tokens") or 0)),
        (_OUTPUT, int(result.get(_OUTPUT) or 0)),
    ]


def _results(
    anthropic: Api, path: str, first: date, last: date, grouped: tuple[str, ...]
) -> Iterator[tuple[date, dict[str, Any]]]:
    """Each result with its day."""
    asked = [
        ("starting_at", f"{first}T00:00:00Z"),
        ("ending_at", f"{last + timedelta(days=1)}T00:00:00Z"),
        ("bucket_width", "1d"),
        ("limit", _DAYS_A_PAGE),
        *(("group_by[]", name) for name in grouped),
    ]
    for bucket in anthropic.buckets(path, asked):
        day = _day(bucket)
        yield from ((day, result) for result in bucket["results"])


def _day(bucket: Mapping[str, Any]) -> date:
    start = datetime.fromisoformat(bucket["starting_at"]).astimezone(UTC)
    if start != datetime(start.year, start.month, start.day, tzinfo=UTC):
        raise ValueError(f"{bucket['starting_at']!r}: expected the beginning of a day of UTC")
    return start.date()


def _text(result: Mapping[str, Any], name: str) -> str:
    return str(result.get(name) or "")
