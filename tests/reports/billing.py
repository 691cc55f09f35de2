"""Made-up bills of providers."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from collectors.providers.lines import OUTPUT, BillLine
from costwatch.accounts.models import Organization
from costwatch.reports import bills

DAY = date(2026, 11, 3)
SETTLED = datetime(2026, 11, 10, 5, tzinfo=UTC)  # when bills are fetched; the day is long over


def line(amount: str, tokens: int | None = None, **said: Any) -> BillLine:
    """Output tokens of gpt-4o."""
    fields: dict[str, Any] = {
        "provider": "openai",
        "day": DAY,
        "project": "",
        "text": "gpt-4o-2024-08-06, output",
        "model": "gpt-4o-2024-08-06",
        "meter": OUTPUT,
        "service_tier": "",
        "quantity": tokens,
        "amount": Decimal(amount),
        "currency": "USD",
    }
    return BillLine(**fields | said)


def billed(
    organization: Organization,
    *lines: BillLine,
    days: Iterable[date] = (DAY,),
    provider: str = "openai",
    account: str = "main",
    now: datetime = SETTLED,
) -> bills.Kept:
    return bills.keep(
        organization, provider, account, list(days), lines, source="OpenAI's API", now=now
    )
