"""What a request costs on one's own devices, and how busy they have to be to beat an API."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
import time_machine

from costwatch.accounts.models import Organization
from costwatch.domain import money
from costwatch.domain.periods import Period
from costwatch.domain.pricing import NS_PER_HOUR
from costwatch.pricing.capacity import capacity_charges
from costwatch.pricing.models import Price, PriceBook
from costwatch.pricing.unit_costs import UnitCost, unit_costs
from tests.pricing.capacity import told
from tests.pricing.test_capacity import MONTH
from tests.pricing.usage import device_price, exchange_rates, offering, source, used

QUARTER = NS_PER_HOUR // 4
API = ("openai", "gpt-4o-mini")


@pytest.fixture
def organization_with_a_device(organization: Organization) -> Organization:
    """One device at 4 an hour, half of which went to two models' calls."""
    device_price(organization, "H100", "4")
    for model, ns, calls in (("llama", QUARTER, 10), ("qwen", QUARTER, 5)):
        own = offering(organization, "", model, device_type="H100")
        used(
            source(organization), own, device_ns=ns, calls=calls, failed_calls=calls // 5,
            input_tokens=600_000, output_tokens=400_000,
        )  # fmt: skip
    told(organization, attributed_ns=2 * QUARTER)
    return organization


def listed(meter: str, amount: str, currency: str = "USD") -> None:
    book, _ = PriceBook.objects.get_or_create(kind="list", name="catalogue")
    Price.objects.create(
        book=book, provider=API[0], model=API[1], meter=meter, unit_price=Decimal(amount),
        unit_quantity=1_000_000, currency=currency, source="test",
    )  # fmt: skip


def units(
    organization: Organization, against: tuple[str, str] | None = None, period: Period = MONTH
) -> dict[str, UnitCost]:
    charges = capacity_charges(organization, period)
    return {one.model: one for one in unit_costs(organization, period, charges, against)}


def test_idle_time_is_carried_by_use(organization_with_a_device: Organization) -> None:
    found = units(organization_with_a_device)
    llama = found["llama"]
    assert (llama.usage_cost, llama.loaded_cost) == (Decimal(1), Decimal(2))
    assert (llama.per_request, llama.per_successful_request) == (Decimal("0.2"), Decimal("0.25"))
    assert (llama.usage_per_million_tokens, llama.per_million_tokens) == (1, 2)
    assert llama.utilization == Decimal("0.5")
    assert llama.api is None
    bill = money.total(row.cost for row in capacity_charges(organization_with_a_device, MONTH))
    assert sum(one.loaded_cost or 0 for one in found.values()) == bill == 4


def test_beside_an_api_the_devices_have_to_be_as_busy_as_its_prices_ask(
    organization_with_a_device: Organization,
) -> None:
    listed("input_tokens", "1")
    listed("output_tokens", "4")
    llama = units(organization_with_a_device, API)["llama"]
    assert llama.api is not None
    assert llama.api.api_cost == Decimal("2.2")  # 0.6 × 1 + 0.4 × 4
    places = Decimal("1e-20")
    # 2 for what costs 2.2 there: half of the time is more than it takes
    assert llama.api.break_even_utilization is not None
    assert llama.api.break_even_utilization.quantize(places) == (
        Decimal(1) / Decimal("2.2")
    ).quantize(places)
    of_tokens = sum(
        llama.api.by_class[meter] * count / 1_000_000
        for meter, count in llama.tokens.items()
        if count
    )
    assert of_tokens.quantize(places) == Decimal(2)
    by_class = {meter: cost.quantize(places) for meter, cost in llama.api.by_class.items()}
    assert by_class == {
        "input_tokens": (Decimal(2) / Decimal("2.2")).quantize(places),
        "output_tokens": (Decimal(8) / Decimal("2.2")).quantize(places),
    }


def test_an_api_whose_price_is_not_known_is_not_compared_with(
    organization_with_a_device: Organization,
) -> None:
    listed("input_tokens", "1")
    assert units(organization_with_a_device, API)["llama"].api is None
    listed("output_tokens", "4", "EUR")
    assert units(organization_with_a_device, API)["llama"].api is None


def test_a_device_without_a_price_has_no_unit_costs_and_no_guess(
    organization: Organization,
) -> None:
    own = offering(organization, "", "llama", device_type="B200")
    used(source(organization), own, device_ns=QUARTER, calls=3, output_tokens=10)
    told(organization, attributed_ns=QUARTER, device_type="B200")
    [found] = units(organization).values()
    assert (found.usage_cost, found.loaded_cost, found.per_request) == (None, None, None)


def test_an_api_in_another_currency_is_compared_at_the_rate_of_the_periods_end(
    organization_with_a_device: Organization,
) -> None:
    listed("input_tokens", "0.5", "EUR")
    listed("output_tokens", "1", "EUR")
    assert units(organization_with_a_device, API)["llama"].api is None
    first, last = MONTH.start.date(), (MONTH.end - timedelta(days=1)).date()
    with time_machine.travel(MONTH.end):
        exchange_rates(organization_with_a_device, "EUR", {first: "9", last: "1.2"})
        api = units(organization_with_a_device, API)["llama"].api
    assert api is not None
    assert api.api_cost == Decimal("0.7") * Decimal("1.2")
