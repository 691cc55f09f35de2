"""Prices in other currencies: exact, by the rate of the UTC day, and unknown where there is none."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from django.db import IntegrityError, transaction
from pytest_django import Settings

from costwatch.accounts.models import AuditEvent, Organization
from costwatch.attribution.models import Entry
from costwatch.domain.periods import Period
from costwatch.domain.pricing import TOKENS_PER_PRICE, PriceState, UnitPrice
from costwatch.pricing import cost
from costwatch.pricing.capacity import Kind, capacity_charges
from costwatch.pricing.charges import charges
from costwatch.pricing.cost import Dimension, Filters, cost_of_calls, costs
from costwatch.pricing.exchange import converted
from costwatch.pricing.exchange_rates import DayRate, set_rates
from costwatch.pricing.in_use import skus_used
from costwatch.pricing.models import ExchangeRate, Meter
from costwatch.pricing.repricing import rerated
from costwatch.pricing.sources import paid_use
from costwatch.pricing.unpriced import meters_used
from tests.factories import NOON, OrganizationFactory, TeamFactory, observation
from tests.pricing.capacity import told
from tests.pricing.usage import (
    HOUR,
    device_price,
    exchange_rates,
    offering,
    send,
    source,
    token_price,
    used,
)

DAY = date(2026, 11, 20)
NEXT = DAY + timedelta(days=1)
WEEK = Period(HOUR - timedelta(days=30), HOUR + timedelta(days=30))


@pytest.fixture
def euros(organization: Organization) -> Organization:
    """Reports in euros; a million output tokens cost 10 US dollars."""
    organization.currency = "EUR"
    organization.save()
    token_price(organization, Meter.OUTPUT_TOKENS, "10", currency="USD")
    return organization


def use(organization: Organization, hour: datetime = HOUR, tokens: int = 1_000_000) -> None:
    used(source(organization), offering(organization), hour, output_tokens=tokens)


def total(organization: Organization, filters: Filters | None = None) -> cost.CostRow:
    return cost.total(organization, WEEK, filters)


def test_an_amount_in_dollars_times_the_days_rate_is_what_it_costs_in_euros(
    euros: Organization,
) -> None:
    exchange_rates(euros, "USD", {DAY: "0.9217"})
    use(euros, tokens=1_234_567)
    row = total(euros)
    assert (row.cost, row.currency, row.unpriced_calls) == (
        Decimal("12.34567") * Decimal("0.9217"),
        "EUR",
        0,
    )
    [charge] = charges(euros, WEEK).charges
    assert (charge.price_cost, charge.cost) == (Decimal("12.34567"), row.cost)
    [sku] = skus_used(euros, WEEK)
    assert (sku.price_cost, sku.cost, sku.state) == (
        Decimal("12.34567"),
        row.cost,
        PriceState.KNOWN,
    )
    assert [one.cost for one in paid_use(euros, WEEK)] == [row.cost]


def test_the_rate_changes_at_utc_midnight_whatever_the_time_zone(euros: Organization) -> None:
    euros.time_zone = "Asia/Kolkata"
    euros.save()
    exchange_rates(euros, "USD", {DAY: "0.9", NEXT: "0.8"})
    midnight = datetime(2026, 11, 21, tzinfo=UTC)
    for hour in (midnight - timedelta(hours=1), midnight):
        use(euros, hour)
    assert [row.cost for row in costs(euros, WEEK, interval="hour")] == [9, 8]
    # Both hours are of one day in Kolkata.
    assert [row.cost for row in costs(euros, WEEK, interval="day")] == [17]


def test_a_rate_holds_over_a_weekend_and_not_for_ever(
    euros: Organization, settings: Settings
) -> None:
    settings.EXCHANGE_RATE_MAX_AGE_DAYS = 3
    exchange_rates(euros, "USD", {DAY: "0.9"})
    for days in (-1, 0, 3, 4):
        use(euros, HOUR + timedelta(days=days))
    found = costs(euros, WEEK, interval="day")
    assert [(row.cost, row.unpriced_tokens) for row in found] == [
        (0, 1_000_000),
        (9, 0),
        (9, 0),
        (0, 1_000_000),
    ]
    lacking, *_ = skus_used(euros, WEEK)
    assert lacking.state is PriceState.UNKNOWN
    assert str(lacking.missing_rate) == "no exchange rate USD → EUR, 2026-11-19 to 2026-11-24"
    assert (lacking.cost, lacking.price_cost, lacking.quantity) == (0, 20, 2_000_000)


def test_without_a_rate_a_cost_is_unknown_and_not_free(euros: Organization) -> None:
    use(euros)
    row = total(euros)
    assert (row.cost, row.unpriced_calls, row.unpriced_tokens) == (0, 1, 1_000_000)
    [charge] = charges(euros, WEEK).charges
    assert (charge.price_cost, charge.cost, charge.unpriced_quantity) == (10, 0, 1_000_000)
    [meter] = meters_used(euros, WEEK)
    assert (meter.lacks_price, meter.has_price, meter.lacks_rates_of) == (False, False, ("USD",))


def test_no_rate_is_turned_around_or_put_together(euros: Organization) -> None:
    for base, quote in (("EUR", "USD"), ("USD", "GBP"), ("GBP", "EUR")):
        ExchangeRate.objects.create(
            organization=euros, date=DAY, base=base, quote=quote, rate=2, source="test"
        )
    use(euros)
    assert (total(euros).cost, total(euros).unpriced_calls) == (0, 1)


def test_rates_of_another_organization_never_apply(euros: Organization) -> None:
    other = OrganizationFactory(currency="EUR")
    exchange_rates(other, "USD", {DAY: "0.5"})
    use(euros)
    assert total(euros).unpriced_calls == 1
    assert total(euros).cost == 0


def test_a_call_says_its_amount_in_both_currencies_and_the_rate(euros: Organization) -> None:
    exchange_rates(euros, "USD", {DAY: "0.9217"})
    token_price(euros, Meter.INPUT_TOKENS, "2")
    send(euros, observation(at=NOON))
    [call] = cost_of_calls(euros, Entry.objects.select_related("offering")).values()
    lines = {line.meter: line for line in call.lines}
    foreign, own = lines["output_tokens"], lines["input_tokens"]
    assert (
        foreign.price_amount,
        foreign.price_currency,
        foreign.exchange_rate,
        foreign.amount,
    ) == (
        Decimal("0.0002"),
        "USD",
        Decimal("0.9217"),
        Decimal("0.00018434"),
    )
    assert (own.price_currency, own.exchange_rate, own.amount) == ("EUR", 1, Decimal("0.0002"))
    assert (call.amount, call.currency) == (Decimal("0.00038434"), "EUR")
    assert total(euros).cost == call.amount


def test_a_call_on_a_day_without_a_rate_has_no_cost_but_a_price(euros: Organization) -> None:
    token_price(euros, Meter.INPUT_TOKENS, "2")
    send(euros, observation(at=NOON))
    [call] = cost_of_calls(euros, Entry.objects.select_related("offering")).values()
    assert call.amount is None
    [line] = [line for line in call.lines if line.meter == "output_tokens"]
    assert (line.unit_price, line.price_amount, line.exchange_rate, line.amount) == (
        10,
        Decimal("0.0002"),
        None,
        None,
    )


def test_a_corrected_rate_costs_everything_anew_and_says_so(euros: Organization) -> None:
    exchange_rates(euros, "USD", {DAY: "9"})
    use(euros)
    assert total(euros).cost == 90
    shown = rerated(euros, [DayRate(DAY, "USD", Decimal("0.9"))])
    assert [(row.before, row.after) for row in shown] == [(90, 9)]
    assert total(euros).cost == 90, "asking changes nothing"
    entered = exchange_rates(euros, "USD", {DAY: "0.9", NEXT: "0.91"})
    assert (entered.new, entered.corrected, entered.unchanged) == (1, 1, 0)
    assert total(euros).cost == 9
    first, correction = AuditEvent.objects.filter(action="exchange_rates.set").order_by("id")
    assert [rate["before"] for rate in first.details["rates"]] == [None]
    assert correction.details["rates"] == [
        {"date": "2026-11-20", "base": "USD", "rate": "0.9", "before": "9"},
        {"date": "2026-11-21", "base": "USD", "rate": "0.91", "before": None},
    ]


def test_the_same_rate_again_changes_nothing(euros: Organization) -> None:
    exchange_rates(euros, "USD", {DAY: "0.9"})
    before = list(ExchangeRate.objects.values())
    assert exchange_rates(euros, "USD", {DAY: "0.900"}).unchanged == 1
    assert list(ExchangeRate.objects.values()) == before
    assert AuditEvent.objects.filter(action="exchange_rates.set").count() == 1


def test_a_pools_bill_in_dollars_is_charged_in_euros_to_the_last_digit(euros: Organization) -> None:
    exchange_rates(euros, "USD", {DAY: "0.921700000001"})
    device_price(euros, "H100", "2.49", currency="USD")
    teams = [TeamFactory(organization=euros) for _ in range(3)]
    for n, team in enumerate(teams):
        used(source(euros, team), offering(euros, model="m", device_type="H100"), device_ns=7 * 10**11 + n)  # fmt: skip
    told(euros, attributed_ns=21 * 10**11 + 3)
    found = capacity_charges(euros, WEEK)
    rate = Decimal("0.921700000001")
    bill = Decimal("2.49") * rate
    assert sum(charge.cost for charge in found) == bill
    usage = [charge for charge in found if charge.kind is Kind.USAGE]
    assert sum(charge.cost for charge in usage) == total(euros).cost
    for charge in found:
        if charge.kind is not Kind.USAGE:
            assert charge.price_cost is not None
            assert charge.price_cost * rate == charge.cost
    by_type = costs(euros, WEEK, group_by=[Dimension.DEVICE_TYPE])
    assert [row.cost for row in by_type] == [sum(charge.cost for charge in usage)]


def test_a_device_without_a_rate_is_not_free_idle_or_busy(euros: Organization) -> None:
    device_price(euros, "H100", "2.49", currency="USD")
    used(source(euros), offering(euros, model="m", device_type="H100"), device_ns=10**12)
    told(euros, attributed_ns=10**12)
    found = capacity_charges(euros, WEEK)
    assert sum(charge.cost for charge in found) == 0
    assert sum(charge.unpriced_ns for charge in found) == 3600 * 10**9
    idle = [charge for charge in found if charge.kind is Kind.IDLE]
    assert all(charge.price is not None and charge.price.currency == "USD" for charge in idle)


def test_a_price_is_compared_in_the_organizations_currency(euros: Organization) -> None:
    exchange_rates(euros, "USD", {DAY: "0.9"})
    prices = {
        "dollars": UnitPrice(Decimal("2.5"), TOKENS_PER_PRICE, "USD"),
        "euros": UnitPrice(Decimal(2), TOKENS_PER_PRICE, "EUR"),
        "pounds": UnitPrice(Decimal(3), TOKENS_PER_PRICE, "GBP"),
    }
    found = converted(euros, prices, NOON)
    assert found == {
        "dollars": UnitPrice(Decimal("2.25"), TOKENS_PER_PRICE, "EUR"),
        "euros": prices["euros"],
    }


@pytest.mark.parametrize(
    ("day", "base", "rate", "said"),
    [
        (DAY, "USD", "0", "above zero"),
        (DAY, "USD", "-1", "above zero"),
        (DAY, "USD", "NaN", "above zero"),
        (DAY, "USD", "Infinity", "above zero"),
        (DAY, "USD", "1e12", "12 digits before the point"),
        (DAY, "USD", "0.0000000000001", "12 after it"),
        (DAY, "US", "1", "three letters"),
        (DAY, "EUR", "1", "needs no rate"),
        (date(1999, 12, 31), "USD", "1", "a year from 2000"),
    ],
)
def test_what_is_no_rate_is_refused(
    euros: Organization, day: date, base: str, rate: str, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        exchange_rates(euros, base, {day: rate})
    assert not ExchangeRate.objects.exists()


def test_rates_are_entered_all_or_none(euros: Organization) -> None:
    right = DayRate(DAY, "USD", Decimal("0.9"))
    for wrong in (right, DayRate(DAY, "EUR", Decimal(1))):
        with pytest.raises(ValueError, match="expected"):
            set_rates(euros, [right, wrong], source="test")
    many = [DayRate(date(2000, 1, 1) + timedelta(n), "USD", Decimal(1)) for n in range(10_001)]
    with pytest.raises(ValueError, match="up to 10,000"):
        set_rates(euros, many, source="test")
    assert not ExchangeRate.objects.exists()


@pytest.mark.parametrize("wrong", [{"rate": Decimal(0)}, {"quote": "USD"}])
def test_the_database_keeps_what_is_no_rate_out(euros: Organization, wrong: dict) -> None:
    exchange_rates(euros, "USD", {DAY: "0.9"})
    with pytest.raises(IntegrityError, match="exchangerate_"), transaction.atomic():
        ExchangeRate.objects.update(**wrong)
