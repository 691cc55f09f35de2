"""What a device's hour costs by how one came by it."""

from __future__ import annotations

from decimal import Decimal

import pytest

from costwatch.domain.device_price import Bought, Rented
from costwatch.domain.pricing import NS_PER_HOUR


def bought(**changed: object) -> Bought:
    terms = {
        "purchase_price": Decimal(30_000),
        "residual_value": Decimal(3_000),
        "lifetime_months": 48,
        "watts": 700,
        "kwh_price": Decimal("0.20"),
        "currency": "USD",
    }
    return Bought(**(terms | changed))  # type: ignore[arg-type]  # each test changes one


def test_a_devices_whole_life_costs_its_purchase_less_what_is_left_of_it_and_its_power() -> None:
    price = bought().unit_price
    assert price.amount == Decimal(27_000) + Decimal("4905.6")  # 0.7 kW × 35,040 h × 0.20
    assert price.cost(48 * 730 * NS_PER_HOUR).amount == Decimal("31905.6")


def test_an_hour_of_a_device_is_its_part_of_that_life() -> None:
    assert str(bought().unit_price.cost(NS_PER_HOUR).amount) == "0.91054794520547945205"


def test_the_price_says_its_formula() -> None:
    assert (
        str(bought()) == "bought: (30000 − 3000) USD / (48 × 730 h) + 700 W / 1,000 × 0.20 USD/kWh"
    )
    assert str(Rented(Decimal("2.10"), True, "USD")) == "reserved: 2.10 USD per device-hour"


@pytest.mark.parametrize(
    "wrong",
    [
        {"lifetime_months": 0},
        {"residual_value": Decimal(30_001)},
        {"residual_value": Decimal(-1)},
        {"watts": -1},
        {"kwh_price": Decimal("-0.1")},
    ],
)
def test_what_cannot_be_written_off_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        bought(**wrong)
