"""The example of docs/currencies.md comes out as the page says."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from costwatch.accounts.models import Organization
from costwatch.domain.periods import Period
from costwatch.pricing.cost import costs, total
from costwatch.pricing.exchange_rates import set_rates
from costwatch.pricing.in_use import skus_used
from costwatch.pricing.models import Meter
from costwatch.pricing.rate_files import rates_in
from tests.pricing.usage import offering, source, token_price, used

PAGE = (Path(__file__).parents[2] / "docs" / "currencies.md").read_text()
ROWS = re.findall(r"^\| ([\d-]{10}) \| ([\d–-]+) \| (\d+) \| (\S+) \|$", PAGE, re.MULTILINE)
[FILE] = re.findall(r"```csv\n(.*?)```", PAGE, re.DOTALL)
NOVEMBER = Period(datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC))


@pytest.fixture
def acme(organization: Organization) -> Organization:
    organization.currency = "EUR"
    organization.save()
    token_price(organization, Meter.OUTPUT_TOKENS, "10.00", currency="USD")
    for day, *_ in ROWS:
        hour = datetime.fromisoformat(f"{day}T23:00Z")
        used(source(organization), offering(organization), hour, output_tokens=4_000_000)
    set_rates(organization, rates_in(organization, FILE), source="test")
    return organization


def test_each_day_costs_what_the_page_says(acme: Organization) -> None:
    assert len(ROWS) == 4
    found = costs(acme, NOVEMBER, interval="day")
    assert [
        (f"{row.start:%Y-%m-%d}", f"{row.cost.normalize():f}" if not row.unpriced_calls else "unknown")
        for row in found
    ] == [(day, cost) for day, _, _, cost in ROWS]  # fmt: skip


def test_the_month_costs_what_the_page_says(acme: Organization) -> None:
    month = total(acme, NOVEMBER)
    assert f"costs {month.cost.normalize():f} EUR as far as that is known" in PAGE
    amounts = {use.missing_rate is None: use.price_cost for use in skus_used(acme, NOVEMBER)}
    assert amounts == {True: Decimal(120), False: Decimal(40)}
    assert sum(amounts.values()) == sum(Decimal(amount) for _, _, amount, _ in ROWS)
