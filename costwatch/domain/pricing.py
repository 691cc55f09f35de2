"""What a quantity costs, and which price holds when.

A price has an amount, the quantity that it buys, and a currency: 0.60 USD for 1,000,000 tokens. Its range is of whole
hours, start included, end excluded; None is without a beginning or an end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from enum import StrEnum
from typing import Generic, TypeVar

from costwatch.domain.exchange import RATE_PLACES
from costwatch.domain.money import EXACT, Money

T = TypeVar("T")

# A price of up to 12 decimals for up to 10^8 is exact at this scale. Where no scale is exact (a third of a cent), it
# is rounded here, once per quantity, in the same way by Postgres and by us.
COST_PLACES = 20
_COST_UNIT = Decimal(1).scaleb(-COST_PLACES)
# Times an exchange rate nothing more is rounded, so that a cost is its amount in the price's currency × the rate.
CONVERTED_PLACES = COST_PLACES + RATE_PLACES

NS_PER_HOUR = 3_600 * 1_000_000_000
TOKENS_PER_PRICE = 1_000_000


class PriceState(StrEnum):
    """Unknown is not free."""

    KNOWN = "known"
    FREE = "free"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class UnitPrice:
    """What unit_quantity of something costs. Raises for what is no price."""

    amount: Decimal
    unit_quantity: int
    currency: str

    def __post_init__(self) -> None:
        if not isinstance(self.amount, Decimal) or not self.amount.is_finite() or self.amount < 0:
            raise ValueError(
                f"price {self.amount!r}: expected a decimal number that is not negative, such as 0.60"
            )
        if self.unit_quantity <= 0:
            raise ValueError(
                f"quantity {self.unit_quantity!r}: expected how much the price buys, such as 1000000"
            )

    def cost(self, quantity: int) -> Money:
        """quantity × amount / unit_quantity: exact, but for what lies beyond COST_PLACES."""
        product = EXACT.multiply(self.amount, Decimal(quantity))
        quotient = EXACT.divide(product, Decimal(self.unit_quantity))
        return Money(quotient.quantize(_COST_UNIT, ROUND_HALF_UP, EXACT), self.currency)


def shortened(cost: Decimal) -> Decimal:
    """With COST_PLACES where that is all it has, as costs without an exchange rate are written; else as it is."""
    short = cost.quantize(_COST_UNIT, context=EXACT)
    return short if short == cost else cost


def state_of(amount: Decimal | None) -> PriceState:
    if amount is None:
        return PriceState.UNKNOWN
    return PriceState.KNOWN if amount else PriceState.FREE


@dataclass(frozen=True, slots=True)
class Ranged(Generic[T]):
    """Something that holds from an hour on, until an hour."""

    valid_from: datetime | None
    valid_until: datetime | None
    value: T

    def holds_at(self, moment: datetime) -> bool:
        return (self.valid_from is None or self.valid_from <= moment) and (
            self.valid_until is None or moment < self.valid_until
        )


def at(ranges: Iterable[Ranged[T]], moment: datetime) -> T | None:
    """What holds at a moment; None where nothing does."""
    return next((one.value for one in ranges if one.holds_at(moment)), None)


def without(
    ranged: Ranged[T], valid_from: datetime | None, valid_until: datetime | None
) -> list[Ranged[T]]:
    """What is left of a range, none, one or two pieces, when another one takes its place."""
    pieces = []
    if valid_from is not None and _starts_before(ranged.valid_from, valid_from):
        pieces.append(
            Ranged(ranged.valid_from, _earlier(ranged.valid_until, valid_from), ranged.value)
        )
    if valid_until is not None and _ends_after(ranged.valid_until, valid_until):
        pieces.append(
            Ranged(_later(ranged.valid_from, valid_until), ranged.valid_until, ranged.value)
        )
    return pieces


def overlaid(*layers: Sequence[Ranged[T]]) -> list[Ranged[T]]:
    """One timeline of several: the first layer holds where it says something, the next one in its gaps, and so on.

    The ranges of a layer do not overlap; those that come back do not either, and are in order of time.
    """
    timeline: list[Ranged[T]] = []
    for layer in layers:
        pieces = list(layer)
        for taken in timeline:
            pieces = [
                left
                for piece in pieces
                for left in without(piece, taken.valid_from, taken.valid_until)
            ]
        timeline += pieces
    return sorted(timeline, key=lambda one: (one.valid_from is not None, one.valid_from))


def _starts_before(start: datetime | None, edge: datetime) -> bool:
    return start is None or start < edge


def _ends_after(end: datetime | None, edge: datetime) -> bool:
    return end is None or end > edge


def _earlier(end: datetime | None, edge: datetime) -> datetime:
    return edge if end is None else min(end, edge)


def _later(start: datetime | None, edge: datetime) -> datetime:
    return edge if start is None else max(start, edge)
