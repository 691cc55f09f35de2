"""Why what a provider bills is not what was metered: the difference, taken apart into causes that sum to it exactly.

A bill and metering meet in cells: one meter at one tier of one model, on one day. Where both say how many tokens, the
difference is taken apart by tokens:

    common     tokens that both have: what differs is the price, or rounding
    unpriced   tokens that both have, and metering knows no price for
    the rest   tokens that one side has and the other has not: of another tier of the same meter, if that one lacks as
               many; else not metered, or not billed; of a bill that is not final, late

Where the bill says no quantity, its amount is compared as a whole.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from enum import StrEnum

from costwatch.domain.money import EXACT, places_of
from costwatch.domain.pricing import COST_PLACES

_UNIT = Decimal(1).scaleb(-COST_PLACES)
_NOTHING = Decimal(0)


class Cause(StrEnum):
    NOT_METERED = "not_metered"  # billed, and no telemetry said so
    NOT_BILLED = "not_billed"  # metered, and not on this bill
    UNPRICED = "unpriced"  # metered, and no price is known for it
    WRONG_TIER = "wrong_tier"  # billed at another tier than it was metered at
    PRICE = "price"  # the same tokens at another price
    ROUNDING = "rounding"  # less than the places of the bill's amounts can say
    LATE = "late"  # the bill was fetched before the day was settled
    UNEXPLAINED = "unexplained"  # the bill says no quantity, so it can't be told
    CURRENCY = "currency"  # billed in another currency than metered: not compared


@dataclass(frozen=True, slots=True)
class Cell:
    """One meter at one tier, as billed and as metered, in one currency.

    billed              None: the bill has no such line.
    billed_quantity     None: the bill does not say.
    roundable           what rounding of the bill's amounts can make of a difference, at most.
    metered_quantity    of what has a price; what has none is unpriced_quantity, and in no cost.
    """

    meter: str
    tier: str
    billed: Decimal | None = None
    billed_quantity: int | None = None
    roundable: Decimal = _NOTHING
    metered: Decimal = _NOTHING
    metered_quantity: int = 0
    unpriced_quantity: int = 0


@dataclass(frozen=True, slots=True)
class Explained:
    """causes sum to billed − metered, to the last digit; none of them is zero.

    covered   the part of what was billed that was metered and priced, right or wrong.
    """

    causes: dict[Cause, Decimal]
    covered: Decimal


@dataclass(slots=True)
class _Rest:
    """Tokens that only one side has. quantity None: it does not say how many."""

    quantity: int | None
    amount: Decimal


class _Sums:
    def __init__(self) -> None:
        self.causes: dict[Cause, Decimal] = defaultdict(Decimal)
        self.covered = _NOTHING

    def add(self, cause: Cause, amount: Decimal) -> None:
        self.causes[cause] = EXACT.add(self.causes[cause], amount)

    def cover(self, amount: Decimal) -> None:
        self.covered = EXACT.add(self.covered, amount)


def roundable(amount: Decimal, currency: str) -> Decimal:
    """Half of the last place that an amount shows, and never more than half of the currency's smallest unit."""
    exponent = amount.as_tuple().exponent
    assert isinstance(exponent, int), "an amount is finite"
    return Decimal(5).scaleb(min(exponent, -places_of(currency)) - 1)


def explain(cells: Iterable[Cell], *, is_final: bool) -> Explained:
    """Of one model on one day.

    is_final   whether the bill was fetched after the provider had settled the day.
    """
    sums = _Sums()
    by_meter: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        by_meter[cell.meter].append(cell)
    for meter in sorted(by_meter):
        billed: list[_Rest] = []
        metered: list[_Rest] = []
        for cell in sorted(by_meter[meter], key=lambda cell: cell.tier):
            _compare(cell, sums, billed, metered)
        _pair(sums, billed, metered)
        for rest in billed:
            sums.add(Cause.NOT_METERED if is_final else Cause.LATE, rest.amount)
        for rest in metered:
            sums.add(Cause.NOT_BILLED if is_final else Cause.LATE, -rest.amount)
    found = {cause: sums.causes[cause] for cause in Cause if sums.causes.get(cause)}
    return Explained(found, sums.covered)


def _compare(cell: Cell, sums: _Sums, billed: list[_Rest], metered: list[_Rest]) -> None:
    """What both have goes into sums; what one has alone into its list."""
    if cell.billed is None:
        metered.append(_Rest(cell.metered_quantity, cell.metered))
    elif not (cell.metered or cell.metered_quantity or cell.unpriced_quantity):
        billed.append(_Rest(cell.billed_quantity or None, cell.billed))
    elif cell.billed_quantity is None or cell.billed_quantity <= 0:
        _compare_amounts(cell, cell.billed, sums)
    else:
        _compare_tokens(cell, cell.billed, cell.billed_quantity, sums, billed, metered)


def _compare_amounts(cell: Cell, billed: Decimal, sums: _Sums) -> None:
    difference = EXACT.subtract(billed, cell.metered)
    if abs(difference) <= cell.roundable:
        cause = Cause.ROUNDING
    elif cell.unpriced_quantity and difference > 0:
        cause = Cause.UNPRICED
    else:
        cause = Cause.UNEXPLAINED
    sums.add(cause, difference)
    sums.cover(min(max(billed, _NOTHING), cell.metered))


def _compare_tokens(
    cell: Cell,
    billed: Decimal,
    billed_quantity: int,
    sums: _Sums,
    billed_rests: list[_Rest],
    metered_rests: list[_Rest],
) -> None:
    whole = _Rest(billed_quantity, billed)
    sums.add(Cause.UNPRICED, _take(whole, min(cell.unpriced_quantity, billed_quantity)))
    own = _Rest(cell.metered_quantity, cell.metered)
    common = min(whole.quantity or 0, cell.metered_quantity)
    common_billed, common_metered = _take(whole, common), _take(own, common)
    difference = EXACT.subtract(common_billed, common_metered)
    sums.add(Cause.ROUNDING if abs(difference) <= cell.roundable else Cause.PRICE, difference)
    sums.cover(common_billed)
    billed_rests.append(whole)
    metered_rests.append(own)


def _pair(sums: _Sums, billed: list[_Rest], metered: list[_Rest]) -> None:
    """Tokens that are billed at one tier and metered at another."""
    for bill in billed:
        for own in metered:
            if bill.quantity is None:
                if not bill.amount or not own.amount:
                    continue
                paid, cost = bill.amount, own.amount
                bill.amount = own.amount = _NOTHING
                own.quantity = 0
            else:
                tokens = min(bill.quantity, own.quantity or 0)
                paid, cost = _take(bill, tokens), _take(own, tokens)
            sums.add(Cause.WRONG_TIER, EXACT.subtract(paid, cost))
            sums.cover(paid)


def _take(rest: _Rest, tokens: int) -> Decimal:
    """So many tokens out of a rest, at its average price; the last ones take what rounding left over."""
    held = rest.quantity or 0
    if tokens == held and held:
        taken = rest.amount
    else:
        taken = _share(rest.amount, tokens, held) if tokens else _NOTHING
    rest.quantity = held - tokens
    rest.amount = EXACT.subtract(rest.amount, taken)
    return taken


def _share(amount: Decimal, part: int, whole: int) -> Decimal:
    product = EXACT.multiply(amount, Decimal(part))
    return EXACT.divide(product, Decimal(whole)).quantize(_UNIT, ROUND_HALF_EVEN, EXACT)
