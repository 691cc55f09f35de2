"""What the columns of a cloud's bill say: FOCUS, and AWS' Cost and Usage Report under both of its spellings.

A row is kept where its service runs models for its customers. Which model a row is for is text that each cloud writes
as it likes, so a line keeps that text; the model is what is told apart in it, and may be empty.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal

from collectors.providers.lines import (
    CACHE_READ,
    CACHE_WRITE,
    INPUT,
    OUTPUT,
    BillLine,
    amount_of,
    tiers,
)

_LONGEST_TEXT = 300
_FIRST_YEAR, _LAST_YEAR = 2000, 2200

# Whose bill (a pattern of its name) has which service (a pattern) for models, and what metering calls that provider.
_SERVICES = (
    (r"amazon|aws", r"bedrock", "aws.bedrock"),
    (r"microsoft|azure", r"openai|foundry|cognitive services|ai services", "azure.ai.openai"),
    (r"google", r"vertex|gemini|generative language", "gcp.vertex_ai"),
    (r"openai", r"", "openai"),
    (r"anthropic", r"", "anthropic"),
    (r"mistral", r"", "mistral_ai"),
    (r"groq", r"", "groq"),
    (r"cohere", r"", "cohere"),
)
_METERS = (
    (re.compile(r"cache[ _-]?read|cached[ _-]?in"), CACHE_READ),
    (re.compile(r"cache[ _-]?(write|creation)"), CACHE_WRITE),
    (re.compile(r"\b(input|inp|prompt)\b|(input|prompt)[ _-]?token"), INPUT),
    (re.compile(r"\b(output|outp|completion)\b|(output|response|completion)[ _-]?token"), OUTPUT),
)
_TIERS = (("batch", re.compile(r"batch")), ("flex", re.compile(r"flex")), ("priority", re.compile(r"priority")))  # fmt: skip
_UNIT = re.compile(r"(?P<count>[\d,.]*)\s*(?P<scale>k|m|thousand|million)?\s*tokens?")
_SCALES = {"": 1, "k": 1_000, "thousand": 1_000, "m": 1_000_000, "million": 1_000_000}
# Names of models as providers give them: what begins a word and is followed by a version.
_MODEL = re.compile(
    r"\b(?:claude|gpt|o\d|gemini|llama|mistral|mixtral|nova|titan|command|deepseek|qwen|text-embedding)"
    r"[\w.:-]*",
    re.IGNORECASE,
)

# Where the name of a model ends and what was used of it begins: claude4.6sonnet-input-tokens.
_USED = re.compile(r"[-_.:](?:mantle|input|output|cached?|batch|flex|priority|inp|outp|cross)\b.*")

Row = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Table:
    """A kind of table with the places of its columns."""

    name: str
    columns: Mapping[str, int]
    read: Callable[[Row], tuple[str, tuple[str, BillLine] | None]]

    def line(self, cells: Sequence[str]) -> tuple[str, tuple[str, BillLine] | None]:
        """The row's service; and its account and line, or None where the service runs no models. Raises ValueError."""
        row = {name: cells[place].strip() for name, place in self.columns.items()}
        for name, value in row.items():
            if "\0" in value:
                raise ValueError(f"{name}: expected text without NUL characters")
        return self.read(row)


def table_of(header: Sequence[str]) -> Table:
    """Raises ValueError for a header that is of neither."""
    places = {_plain(name): place for place, name in enumerate(header)}
    for name, needed, others, read in (
        ("FOCUS", _FOCUS, _FOCUS_TOO, _focus),
        ("CUR", _CUR, _CUR_TOO, _cur),
    ):
        missing = [one for one in needed if one not in places]
        if len(missing) == len(needed):
            continue
        if missing:
            raise ValueError(f"a {name} file without the columns {', '.join(missing)}")
        return Table(name, {one: places[one] for one in (*needed, *others) if one in places}, read)
    raise ValueError(
        f"expected the header of a FOCUS file (BilledCost, …) or of AWS' Cost and Usage Report "
        f"(lineItem/UnblendedCost, …), found {','.join(header)[:80]!r}"
    )


def _plain(name: str) -> str:
    """lineItem/UsageStartDate and line_item_usage_start_date are one; BilledCost is billed_cost."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9]+", "_", name.strip())
    return words.lower().strip("_")


_FOCUS = ("billed_cost", "billing_currency", "charge_period_start", "service_name")
_FOCUS_TOO = (
    *("provider_name", "service_provider_name", "host_provider_name", "publisher_name"),
    *("billing_account_id", "sub_account_id", "charge_description", "sku_meter", "sku_id"),
    *("consumed_quantity", "consumed_unit", "charge_category"),
)


def _focus(row: Row) -> tuple[str, tuple[str, BillLine] | None]:
    service = row["service_name"]
    whose = [
        row.get(name, "") for name in ("service_provider_name", "provider_name", "publisher_name")
    ]
    provider = _provider(whose, service)
    if provider is None:
        return service, None
    said = [row.get(name, "") for name in ("charge_description", "sku_meter", "sku_id")]
    is_use = row.get("charge_category", "Usage") in {"Usage", ""}
    line = _line(
        provider,
        day=row["charge_period_start"],
        project=row.get("sub_account_id", ""),
        said=said if is_use else [row["charge_category"], *said],
        is_use=is_use,
        quantity=row.get("consumed_quantity", ""),
        unit=row.get("consumed_unit", ""),
        amount=row["billed_cost"],
        currency=row["billing_currency"],
    )
    return service, (row.get("billing_account_id", "")[:_LONGEST_TEXT], line)


_CUR = (
    *("line_item_usage_start_date", "line_item_unblended_cost"),
    *("line_item_product_code", "line_item_usage_type"),
)
_CUR_TOO = (
    *("line_item_currency_code", "line_item_line_item_description", "line_item_line_item_type"),
    *("line_item_usage_account_id", "line_item_usage_amount", "pricing_unit"),
    *("bill_payer_account_id", "product_product_name", "product_servicecode"),
)


def _cur(row: Row) -> tuple[str, tuple[str, BillLine] | None]:
    code = row["line_item_product_code"]
    named = [code, row.get("product_product_name", ""), row.get("product_servicecode", "")]
    provider = _provider(["AWS"], " ".join(named))
    if provider is None:
        return named[1] or code, None
    kind = row.get("line_item_line_item_type", "Usage")
    is_use = kind in {"Usage", "DiscountedUsage", ""}
    said = [row["line_item_usage_type"], row.get("line_item_line_item_description", "")]
    line = _line(
        provider,
        day=row["line_item_usage_start_date"],
        project=row.get("line_item_usage_account_id", ""),
        said=said if is_use else [kind, *said],
        is_use=is_use,
        quantity=row.get("line_item_usage_amount", ""),
        unit=row.get("pricing_unit", ""),
        amount=row["line_item_unblended_cost"],
        currency=row.get("line_item_currency_code", "") or "USD",
    )
    return code, (row.get("bill_payer_account_id", "")[:_LONGEST_TEXT], line)


def _provider(whose: Sequence[str], service: str) -> str | None:
    names, named = " ".join(whose).lower(), service.lower()
    for company, services, provider in _SERVICES:
        if re.search(company, names) and re.search(services, named):
            return provider
    return None


def _line(
    provider: str,
    *,
    day: str,
    project: str,
    said: Sequence[str],
    is_use: bool,
    quantity: str,
    unit: str,
    amount: str,
    currency: str,
) -> BillLine:
    """A line from what a row says. What is no use (tax, credits) is for no meter."""
    texts = [text for text in said if text]
    together = " ".join(texts).lower()
    meter = next((meter for found, meter in _METERS if found.search(together)), "")
    model = next((found[0] for text in texts if (found := _MODEL.search(text))), "")
    if not re.fullmatch(r"[A-Za-z]{3}", currency):
        raise ValueError(f"currency {currency[:40]!r}: expected three letters, such as USD")
    return BillLine(
        provider=provider,
        day=_day(day),
        project=project[:_LONGEST_TEXT],
        text=", ".join(dict.fromkeys(texts))[:_LONGEST_TEXT],
        model=_USED.sub("", model.lower()).rstrip(".:-_")[:_LONGEST_TEXT] if is_use else "",
        meter=meter if is_use else "",
        service_tier=tiers(*(name for name, found in _TIERS if found.search(together))),
        quantity=_tokens(quantity, unit) if is_use and meter else None,
        amount=amount_of(amount),
        currency=currency.upper(),
    )


def _day(said: str) -> date:
    """The day of UTC in which a time lies; one without a zone is UTC's. Raises ValueError."""
    try:
        moment = datetime.fromisoformat(said)
        day = (moment.astimezone(UTC) if moment.tzinfo else moment).date()
    except (ValueError, OverflowError):
        raise ValueError(f"time {said[:40]!r}: expected one such as 2026-11-01T00:00:00Z") from None
    if not _FIRST_YEAR <= day.year <= _LAST_YEAR:
        raise ValueError(f"time {said[:40]!r}: expected a year from {_FIRST_YEAR} to {_LAST_YEAR}")
    return day


def _tokens(quantity: str, unit: str) -> int | None:
    """None where the unit is no number of tokens: a quantity is never guessed."""
    found = _UNIT.fullmatch(unit.strip().lower())
    if found is None or not quantity:
        return None
    count = Decimal(found["count"].replace(",", "") or 1)
    tokens = amount_of(quantity) * count * _SCALES[found["scale"] or ""]
    return int(tokens) if tokens == tokens.to_integral_value() else None
