"""Amounts of money: decimal, from text or integers, never from a float; rounded only where a person reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import ROUND_FLOOR, ROUND_HALF_UP, Context, Decimal

# Python's own 28 digits would round sums of small prices over large quantities without a word.
EXACT = Context(prec=120)

# Currencies whose smallest unit is not a hundredth (ISO 4217).
_PLACES = dict.fromkeys(
    [
        "BIF",
        "CLP",
        "DJF",
        "GNF",
        "ISK",
        "JPY",
        "KMF",
        "KRW",
        "PYG",
        "RWF",
        "UGX",
        "VND",
        "VUV",
        "XAF",
        "XOF",
        "XPF",
    ],
    0,
) | dict.fromkeys(["BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"], 3)


@dataclass(frozen=True, slots=True, order=False)
class Money:
    """An amount in a currency (ISO 4217). Raises TypeError for an amount that is not a Decimal."""

    amount: Decimal
    currency: str

    def __post_init__(self) -> None:
        if not isinstance(self.amount, Decimal):
            raise TypeError(
                f"amount {self.amount!r}: expected a Decimal, made from text or an integer"
            )

    def __str__(self) -> str:
        return f"{self.amount} {self.currency}"

    def __add__(self, other: Money) -> Money:
        return Money(EXACT.add(self.amount, self._same(other)), self.currency)

    def __sub__(self, other: Money) -> Money:
        return Money(EXACT.subtract(self.amount, self._same(other)), self.currency)

    def __mul__(self, factor: Decimal | int) -> Money:
        return Money(EXACT.multiply(self.amount, Decimal(factor)), self.currency)

    def rounded(self, places: int = 2) -> Money:
        return Money(rounded(self.amount, places), self.currency)

    def _same(self, other: Money) -> Decimal:
        if other.currency != self.currency:
            raise ValueError(
                f"{self} and {other}: expected one currency; convert one of them first"
            )
        return other.amount


def total(amounts: Iterable[Decimal]) -> Decimal:
    """The exact sum, however many digits it takes."""
    result = Decimal(0)
    for amount in amounts:
        result = EXACT.add(result, amount)
    return result


def rounded(amount: Decimal, places: int = 2) -> Decimal:
    """To so many decimal places, halves away from zero, as bills are and as Postgres does."""
    return amount.quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP, EXACT)


def places_of(currency: str) -> int:
    """How many decimal places a bill in a currency has (ISO 4217)."""
    return _PLACES.get(currency, 2)


def round_to_total(amounts: Sequence[Decimal], places: int = 2) -> list[Decimal]:
    """Each amount rounded so that all of them sum to the rounded total (see apportioned)."""
    return apportioned(amounts, rounded(total(amounts), places), places)


def apportioned(amounts: Sequence[Decimal], whole: Decimal, places: int = 2) -> list[Decimal]:
    """Each amount rounded so that all of them sum to `whole`.

    whole   their sum, rounded up or down to these places.

    Every amount is rounded down, and what the whole then lacks goes to the largest remainders (Hamilton's method),
    ties to the earlier one. So each is less than one unit of the last place from what it was, and zero stays zero.
    """
    unit = Decimal(1).scaleb(-places)
    down = [amount.quantize(unit, ROUND_FLOOR, EXACT) for amount in amounts]
    lacking = int(EXACT.subtract(whole, total(down)) / unit)
    remainders = [
        EXACT.subtract(amount, floor) for amount, floor in zip(amounts, down, strict=True)
    ]
    for i in sorted(range(len(down)), key=lambda i: (-remainders[i], i))[:lacking]:
        down[i] = EXACT.add(down[i], unit)
    return down
