"""OpenAI's bill: GET /v1/organization/costs, and what was used from /v1/organization/usage/….

Costs come in days of UTC by project and line item. A line item is text: "gpt-4o-2024-08-06, cached input",
"flex | gpt-5-mini-2025-08-07, output", "priority | gpt-5.6-sol, output, long context", "web search tool calls".
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from collectors.providers.lines import (
    CACHE_READ,
    CACHE_WRITE,
    INPUT,
    LONG_CONTEXT,
    OUTPUT,
    BillLine,
    amount_of,
    tiers,
    with_quantities,
)
from collectors.providers.reports import Api

PROVIDER = "openai"
URL = "https://api.openai.com"
KEY_HINT = "an admin key (sk-admin-…) that may read usage; an ordinary key will not do"

_COSTS = "/v1/organization/costs"
# With what each can be grouped by beside the project.
_USAGE = {
    "/v1/organization/usage/completions": ("model", "batch", "service_tier"),
    "/v1/organization/usage/embeddings": ("model",),
}
_DAYS_A_PAGE = "31"
_DAY_SECONDS = 86_400

_LINE_ITEM = re.compile(
    r"(?:(?P<tier>[\w ]+) \| )?(?P<model>[\w.:/-]+)(?P<kind> \w+)?, (?P<rest>.+)"
)
_METERS = {
    "input": INPUT,
    "input_tokens": INPUT,
    "cached input": CACHE_READ,
    "cached_input_tokens": CACHE_READ,
    "cache writes": CACHE_WRITE,
    "cache_write_tokens": CACHE_WRITE,
    "output": OUTPUT,
    "output_tokens": OUTPUT,
}
_TOKENS = {"tokens": 1, "1000_tokens": 1_000}
_STANDARD = {"", "default", "standard", "auto"}


def api(key: str, url: str = URL, **how: Any) -> Api:
    """Raises CannotFetch for what is no key."""
    return Api("OpenAI", url, {"authorization": f"Bearer {key}"}, key, KEY_HINT, **how)


def bill(openai: Api, first: date, last: date) -> list[BillLine]:
    """The lines of all days from first to last, both included. Raises CannotFetch."""
    with openai.reading(_COSTS):
        lines = [
            _line(day, result)
            for day, result in _results(openai, _COSTS, first, last, ("project_id", "line_item"))
        ]
    if all(line.quantity is not None or not line.meter for line, _ in lines):
        return [line for line, _ in lines]
    used: dict[Hashable, int] = {}
    for path, grouped in _USAGE.items():
        with openai.reading(path):
            used |= _used(openai, path, first, last, grouped)
    return with_quantities(lines, used)


def _line(day: date, result: Mapping[str, Any]) -> tuple[BillLine, Hashable]:
    money = result["amount"]
    text = _text(result, "line_item")
    model, meter, tier = named_in(text)
    line = BillLine(
        provider=PROVIDER,
        day=day,
        project=_text(result, "project_id"),
        text=text,
        model=model,
        meter=meter,
        service_tier=tier,
        quantity=_quantity(result) if meter else None,
        amount=_without_noise(amount_of(money["value"])),
        currency=str(money["currency"]).upper(),
    )
    return line, (day, line.project, model, meter, tier)


def named_in(line_item: str) -> tuple[str, str, str]:
    """Model, meter and tier of a line item; each empty where it names none."""
    found = _LINE_ITEM.fullmatch(line_item)
    if found is None:
        return "", "", ""
    words = found["rest"].split(", ")
    is_batch = any(word.startswith("batch") for word in words)
    meter = next((_METERS[word] for word in map(_plain, words) if word in _METERS), "")
    named = (found["tier"] or "").strip().lower()
    tier = tiers(
        "" if named in _STANDARD else named,
        "batch" if is_batch and named != "batch" else "",
        LONG_CONTEXT if LONG_CONTEXT in words else "",
    )
    # Audio and images have prices of their own, which metering does not tell apart from text's.
    kind = (found["kind"] or "").strip()
    return found["model"], "" if kind not in {"", "text"} else meter, tier


def _plain(word: str) -> str:
    return word.removeprefix("batch").strip()


def _quantity(result: Mapping[str, Any]) -> int | None:
    factor = _TOKENS.get(str(result.get("quantity_unit")))
    quantity = result.get("quantity")
    if factor is None or not isinstance(quantity, (int, Decimal)):
        return None
    tokens = Decimal(quantity) * factor
    return int(tokens) if tokens == tokens.to_integral_value() else None


def _without_noise(amount: Decimal) -> Decimal:
    """OpenAI's amounts are binary fractions: what lies beyond twelve decimals is how they are written, not money."""
    return round(amount, 12).normalize()


def _used(
    openai: Api, path: str, first: date, last: date, grouped: Iterable[str]
) -> dict[Hashable, int]:
    """Tokens by day, project, model, meter and tier, as _line() says them."""
    results = _results(openai, path, first, last, ("project_id", *grouped))
    return dict(count for day, result in results for count in _counts(day, result))


def _counts(day: date, result: Mapping[str, Any]) -> Iterator[tuple[Hashable, int]]:
    tier = _text(result, "service_tier").lower()
    tier = "batch" if result.get("batch") else "" if tier in _STANDARD else tier
    named = (day, _text(result, "project_id"), _text(result, "model"))
    cached = result.get("input_cached_tokens") or 0
    written = result.get("input_cache_write_tokens") or 0
    counted = {
        INPUT: int(result["input_tokens"]) - int(cached) - int(written),  # it includes both
        CACHE_READ: int(cached),
        CACHE_WRITE: int(written),
        OUTPUT: int(result.get("output_tokens") or 0),
    }
    yield from (((*named, meter, tier), tokens) for meter, tokens in counted.items())


def _results(
    openai: Api, path: str, first: date, last: date, grouped: Iterable[str]
) -> Iterator[tuple[date, dict[str, Any]]]:
    """Each result with its day."""
    asked = [
        ("start_time", str(_unix(first))),
        ("end_time", str(_unix(last + timedelta(days=1)))),
        ("bucket_width", "1d"),
        ("limit", _DAYS_A_PAGE),
        *(("group_by[]", name) for name in grouped),
    ]
    for bucket in openai.buckets(path, asked):
        start, results = bucket.get("start_time"), bucket.get("results")
        if not isinstance(start, int) or start % _DAY_SECONDS or not isinstance(results, list):
            raise openai.unreadable(path, f"expected a day of UTC with its results, found {bucket!r:.200}")  # fmt: skip
        day = datetime.fromtimestamp(start, UTC).date()
        yield from ((day, result) for result in results)


def _unix(day: date) -> int:
    return int(datetime.combine(day, time(), UTC).timestamp())


def _text(result: Mapping[str, Any], name: str) -> str:
    return str(result.get(name) or "")
