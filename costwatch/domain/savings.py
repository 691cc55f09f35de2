"""What measures save together: each works on what the ones before it left, so savings multiply and do not add."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from costwatch.domain.money import EXACT, total


@dataclass(frozen=True, slots=True)
class SavingRange:
    """Between how much and how much is saved: amounts of money, or fractions of a cost. Raises ValueError if reversed."""

    low: Decimal
    high: Decimal

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"{self.low} to {self.high}: expected the smaller saving first")

    def times(self, factor: Decimal) -> SavingRange:
        """Raises ValueError for a negative factor, which would reverse the range."""
        return SavingRange(EXACT.multiply(self.low, factor), EXACT.multiply(self.high, factor))


def stacked(fractions: Iterable[Decimal]) -> Decimal:
    """The fraction that is saved by several measures, each of which saves its fraction of what is left.

    Raises ValueError for a fraction that is not between 0 and 1.
    """
    left = Decimal(1)
    for fraction in fractions:
        if not 0 <= fraction <= 1:
            raise ValueError(f"fraction {fraction}: expected a part of the cost, from 0 to 1")
        left = EXACT.multiply(left, EXACT.subtract(Decimal(1), fraction))
    return EXACT.subtract(Decimal(1), left)


def stacked_ranges(ranges: Iterable[SavingRange]) -> SavingRange:
    """As stacked(), for fractions that are known as ranges."""
    known = list(ranges)
    return SavingRange(stacked(r.low for r in known), stacked(r.high for r in known))


def together(ranges: Iterable[SavingRange]) -> SavingRange:
    """The sum of savings that do not touch each other: different money each."""
    known = list(ranges)
    return SavingRange(total(r.low for r in known), total(r.high for r in known))
