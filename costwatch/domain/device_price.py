"""What a device's hour costs, by how one came by the device."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from costwatch.domain.money import EXACT
from costwatch.domain.pricing import NS_PER_HOUR, UnitPrice

HOURS_PER_MONTH = 730  # 8,760 hours of a year / 12


@dataclass(frozen=True, slots=True)
class Rented:
    """By the hour, on demand or reserved. Powered by whoever lets it."""

    hourly_price: Decimal
    is_reserved: bool
    currency: str

    @property
    def unit_price(self) -> UnitPrice:
        return UnitPrice(self.hourly_price, NS_PER_HOUR, self.currency)

    def __str__(self) -> str:
        kind = "reserved" if self.is_reserved else "on demand"
        return f"{kind}: {self.hourly_price:f} {self.currency} per device-hour"


@dataclass(frozen=True, slots=True)
class Bought:
    """Bought, written off evenly over its lifetime, and powered. Raises ValueError for what can't be written off.

    price per hour = (purchase − residual) / (lifetime months × 730) + watts / 1,000 × price of a kWh
    """

    purchase_price: Decimal
    residual_value: Decimal
    lifetime_months: int
    watts: int
    kwh_price: Decimal
    currency: str

    def __post_init__(self) -> None:
        if self.lifetime_months <= 0:
            raise ValueError(f"lifetime {self.lifetime_months}: expected months, such as 48")
        if not 0 <= self.residual_value <= self.purchase_price:
            raise ValueError(
                f"residual value {self.residual_value}: expected from 0 to the purchase price, {self.purchase_price}"
            )
        if self.watts < 0 or self.kwh_price < 0:
            raise ValueError(
                f"{self.watts} W at {self.kwh_price} per kWh: expected numbers that are not negative"
            )

    @property
    def hours(self) -> int:
        return self.lifetime_months * HOURS_PER_MONTH

    @property
    def unit_price(self) -> UnitPrice:
        """For all hours of the lifetime together: of a single hour it might have no end of decimals."""
        kwh = EXACT.divide(Decimal(self.watts * self.hours), Decimal(1000))
        power = EXACT.multiply(kwh, self.kwh_price)
        written_off = EXACT.subtract(self.purchase_price, self.residual_value)
        return UnitPrice(EXACT.add(written_off, power), self.hours * NS_PER_HOUR, self.currency)

    def __str__(self) -> str:
        return (
            f"bought: ({self.purchase_price:f} − {self.residual_value:f}) {self.currency} / ({self.lifetime_months} × "
            f"{HOURS_PER_MONTH} h) + {self.watts} W / 1,000 × {self.kwh_price:f} {self.currency}/kWh"
        )
