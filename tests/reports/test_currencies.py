"""Bills of prices in other currencies: both amounts on a line, and an adjustment where a rate changed a closed month."""

from __future__ import annotations

import hashlib
import json
import os
from csv import DictReader
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
import time_machine

from costwatch.accounts.models import Organization
from costwatch.pricing.models import Meter
from costwatch.reports.adjustments import pending
from costwatch.reports.chargeback import Chargeback, chargeback, frozen
from costwatch.reports.exports import csv, focus, parquet
from costwatch.reports.exports import json as json_export
from costwatch.reports.frozen import digest_of_closing, digest_of_statement, header_of, lines_of
from costwatch.reports.lines import Line
from costwatch.reports.models import Closing
from costwatch.reports.periods import month_asked
from tests.factories import TeamFactory
from tests.pricing.capacity import told
from tests.pricing.usage import (
    device_price,
    exchange_rates,
    offering,
    source,
    token_price,
    used,
)
from tests.reports.closing import IN_DECEMBER, IN_NOVEMBER, NOVEMBER, OCTOBER, closed
from tests.reports.test_exports import VALIDATORS_OWN, failures
from tests.skips import NO_FOCUS_VALIDATOR

DAY = OCTOBER.date()


@pytest.fixture
def euros(organization: Organization) -> Organization:
    """Search used 4 million tokens in October at 2.50 dollars, which were 0.9 euros each."""
    organization.currency = "EUR"
    organization.save()
    with time_machine.travel(IN_NOVEMBER - timedelta(days=2), tick=False):
        token_price(organization, Meter.OUTPUT_TOKENS, "2.50", currency="USD")
        exchange_rates(organization, "USD", {DAY: "0.9"})
    use(organization, 4_000_000)
    return organization


def use(organization: Organization, tokens: int) -> None:
    team = organization.teams.first() or TeamFactory(organization=organization, name="Search")
    used(source(organization, team), offering(organization), OCTOBER, output_tokens=tokens)


def october(organization: Organization) -> Chargeback:
    return chargeback(organization, month_asked("2026-10", "UTC"))


def adjustments(organization: Organization) -> list[Line]:
    return pending(organization, "9999-12")


def told_of(line: Line) -> tuple[object, ...]:
    return line.cause, line.quantity, line.exact_cost, line.price_currency, line.price_cost


def test_a_line_says_the_amount_in_the_prices_currency_and_in_the_bills(
    euros: Organization,
) -> None:
    for report in (october(euros), frozen(closed(euros, "2026-10"))):
        [line] = report.lines
        assert (line.unit_price, line.price_currency, line.price_cost) == (
            Decimal("2.5"),
            "USD",
            10,
        )
        assert (report.currency, line.exact_cost, line.cost) == ("EUR", 9, Decimal("9.00"))
        assert json_export.line(line)["price_cost"] == f"{line.price_cost:f}"
        [cells] = DictReader(csv.chunks(report))
        assert (cells["currency"], cells["cost"]) == ("EUR", "9.00")
        assert (cells["price_currency"], Decimal(cells["price_cost"])) == ("USD", 10)


def test_hours_without_a_rate_are_a_line_of_their_own_that_the_total_lacks(
    euros: Organization,
) -> None:
    team = euros.teams.get()
    used(source(euros, team), offering(euros), OCTOBER - timedelta(days=1), output_tokens=2_000_000)
    known, unknown = october(euros).lines
    assert (known.state, known.quantity, known.cost) == ("known", 4_000_000, 9)
    assert (unknown.state, unknown.unpriced_quantity, unknown.cost) == ("unknown", 2_000_000, 0)
    assert (unknown.price_cost, unknown.price_currency) == (5, "USD")
    assert october(euros).unpriced_lines == 1


def test_a_corrected_rate_adjusts_a_closed_month_and_says_that_it_was_the_rate(
    euros: Organization,
) -> None:
    closing = closed(euros, "2026-10")
    before = list(lines_of(closing.statements.get()))
    assert adjustments(euros) == []
    exchange_rates(euros, "USD", {DAY: "0.8"})
    [line] = adjustments(euros)
    assert told_of(line) == ("exchange_rate", 0, -1, "USD", 0)
    assert list(lines_of(closing.statements.get())) == before
    assert digest_of_closing(closing) == closing.sha256
    # What is frozen of it is no news, and the next correction is told apart from it.
    used(source(euros), offering(euros), NOVEMBER, input_tokens=1)
    closed(euros, "2026-11", IN_DECEMBER)
    assert adjustments(euros) == []
    exchange_rates_later(euros, "0.85")
    [line] = adjustments(euros)
    assert told_of(line) == ("exchange_rate", 0, Decimal("0.5"), "USD", 0)


def exchange_rates_later(organization: Organization, rate: str) -> None:
    with time_machine.travel(IN_DECEMBER + timedelta(days=1), tick=False):
        exchange_rates(organization, "USD", {DAY: rate})


def test_a_rate_that_comes_after_the_closing_is_an_adjustment_too(euros: Organization) -> None:
    team = euros.teams.get()
    used(source(euros, team), offering(euros), OCTOBER - timedelta(days=1), output_tokens=2_000_000)
    closed(euros, "2026-10")
    exchange_rates(euros, "USD", {DAY - timedelta(days=3): "0.7"})
    [line] = adjustments(euros)
    assert told_of(line) == ("exchange_rate", 0, Decimal("3.5"), "USD", 0)
    assert line.unpriced_quantity == -2_000_000


def test_other_causes_are_still_told_apart(euros: Organization) -> None:
    closed(euros, "2026-10")
    use(euros, 5_000_000)
    [line] = adjustments(euros)
    assert told_of(line) == ("late", 1_000_000, Decimal("2.25"), "USD", Decimal("2.5"))
    exchange_rates(euros, "USD", {DAY: "0.8"})
    [line] = adjustments(euros)
    assert told_of(line) == ("several", 1_000_000, 1, "USD", Decimal("2.5"))
    use(euros, 4_000_000)
    token_price(euros, Meter.OUTPUT_TOKENS, "3", currency="USD")
    [line] = adjustments(euros)
    assert told_of(line) == ("several", 0, Decimal("0.6"), "USD", 2)


def test_another_price_in_the_same_currency_is_another_price(euros: Organization) -> None:
    closed(euros, "2026-10")
    token_price(euros, Meter.OUTPUT_TOKENS, "3", currency="USD")
    [line] = adjustments(euros)
    assert told_of(line) == ("price", 0, Decimal("1.8"), "USD", 2)


def test_a_rate_of_another_currency_or_organization_adjusts_nothing(
    euros: Organization,
) -> None:
    closed(euros, "2026-10")
    exchange_rates(euros, "GBP", {DAY: "1.2"})
    assert adjustments(euros) == []


def test_idle_devices_in_another_currency_are_billed_by_the_days_rate(euros: Organization) -> None:
    device_price(euros, "H100", "3", currency="USD")
    team = euros.teams.get()
    own = offering(euros, "", "llama", device_type="H100")
    used(source(euros, team), own, OCTOBER, device_ns=10**12)
    told(euros, OCTOBER, attributed_ns=10**12)
    lines = [line for line in october(euros).lines if line.device_type]
    assert {line.kind for line in lines} == {"usage", "capacity"}
    assert sum(line.exact_cost for line in lines) == Decimal("2.7")
    assert sum(line.price_cost or 0 for line in lines) == 3
    closed(euros, "2026-10")
    assert adjustments(euros) == []
    exchange_rates(euros, "USD", {DAY: "0.8"})
    assert {line.cause for line in adjustments(euros)} == {"exchange_rate"}


# As lines were signed before there were exchange rates.
SIGNED = [
    "team_id",
    "team",
    "cost_centre",
    "provider",
    "model",
    "device_type",
    "meter",
    "calls",
    "quantity",
    "unpriced_quantity",
    "unit_price",
    "unit_label",
    "state",
    "exact_cost",
    "cost",
    "kind",
    "used_in",
    "cause",
    "service_tier",
    "feature",
    "method",
    "unit_quantity",
    "price_currency",
]


def signed(closing: Closing, team_id: int | None, team: str, lines: list[Line]) -> str:
    said = json.dumps(dict(sorted(header_of(closing, team_id, team).items())), ensure_ascii=False)
    sha = hashlib.sha256(said.encode())
    for line in lines:
        values = [getattr(line, name) for name in SIGNED]
        plain = [f"{v.normalize():f}" if isinstance(v, Decimal) else v for v in values]
        sha.update(json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
    return sha.hexdigest()


def test_a_month_that_was_closed_before_there_were_exchange_rates_still_verifies(
    organization: Organization,
) -> None:
    token_price(organization, Meter.OUTPUT_TOKENS, "2.50")
    device_price(organization, "H100", "0.07")
    use(organization, 4_000_001)
    own = offering(organization, "", "llama", device_type="H100")
    used(source(organization), own, OCTOBER, device_ns=7_777_777_777)
    told(organization, OCTOBER, attributed_ns=7_777_777_777)
    closing = closed(organization, "2026-10")
    assert closing.statements.count() == 2
    for statement in closing.statements.all():
        lines = list(lines_of(statement))
        assert statement.sha256 == signed(closing, statement.team_id, statement.team_name, lines)
        assert digest_of_statement(statement) == statement.sha256
    assert adjustments(organization) == [], (
        "what it costs now is what was frozen, to the last digit"
    )


def test_focus_has_the_prices_currency_beside_the_bills(euros: Organization) -> None:
    [row] = focus.rows(october(euros))
    assert {name: value for name, value in row.items() if "Curr" in name} == {
        "BillingCurrency": "EUR",
        "PricingCurrency": "USD",
        "PricingCurrencyEffectiveCost": 10,
        "PricingCurrencyListUnitPrice": Decimal("2.5"),
        "PricingCurrencyContractedUnitPrice": Decimal("2.5"),
    }
    assert (row["BilledCost"], row["EffectiveCost"], row["ListCost"], row["ListUnitPrice"]) == (
        Decimal("9.00"),
        9,
        9,
        Decimal("2.25"),
    )
    assert row["SkuPriceId"] == "openai/gpt-4o/output_tokens@2.5/1000000USD"


def test_focus_has_no_use_without_an_exchange_rate(euros: Organization) -> None:
    used(source(euros), offering(euros), OCTOBER - timedelta(days=1), output_tokens=2_000_000)
    [unknown] = [row for row in focus.rows(october(euros)) if row["x_PriceState"] == "unknown"]
    assert (unknown["ChargeCategory"], unknown.get("SkuId"), unknown["BilledCost"]) == (
        "Adjustment",
        None,
        0,
    )
    assert unknown["x_UnpricedQuantity"] == 2_000_000


def test_the_official_validator_finds_no_failure_but_its_own_in_several_currencies(
    euros: Organization, tmp_path: Path
) -> None:
    validator = os.environ.get("COSTWATCH_FOCUS_VALIDATOR")
    if not validator:
        pytest.skip(NO_FOCUS_VALIDATOR)
    token_price(euros, Meter.INPUT_TOKENS, "1.50")
    team = euros.teams.get()
    used(source(euros, team), offering(euros), OCTOBER - timedelta(days=1), output_tokens=2_000_000)
    used(source(euros), offering(euros), OCTOBER, input_tokens=3_000_001, output_tokens=7)
    closed(euros, "2026-10")
    exchange_rates(euros, "USD", {DAY: "0.8123456789"})
    used(source(euros, team), offering(euros), NOVEMBER, input_tokens=5)
    november = chargeback(euros, month_asked("2026-11", "UTC"))
    for name, report in (("october", october(euros)), ("november", november)):
        file = tmp_path / f"{name}.parquet"
        file.write_bytes(b"".join(parquet.chunks(report)))
        assert failures(validator, file, tmp_path / f"{name}.xml") <= set(VALIDATORS_OWN)
