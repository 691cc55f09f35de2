"""A line of a provider's bill, in the words that metering uses too."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from decimal import ROUND_HALF_EVEN, Context, Decimal

# Meters, as metering calls them. A line that is for none of them (tools, storage, tax) has an empty one.
INPUT = "input_tokens"
CACHE_READ = "cache_read_input_tokens"
CACHE_WRITE = "cache_write_input_tokens"
OUTPUT = "output_tokens"

# Beside what providers call their service tiers: what also changes the price of the same tokens.
LONG_CONTEXT = "long context"
ONE_HOUR = "1 hour"  # how long a cache write is kept

PLACES = 20
_DIGITS = Context(prec=60)
_MOST = Decimal(10) ** 18


@dataclass(frozen=True, slots=True)
class BillLine:
    """What a provider asks for one thing on one day in UTC.

    project        the provider's project, workspace or account; empty: it names none.
    text           what the bill calls it.
    model          empty: the bill names none.
    meter          empty: it is for no tokens, or the bill does not say for which.
    service_tier   empty: standard. Several that hold at once are joined by commas.
    quantity       tokens; None: the bill does not say.
    """

    provider: str
    day: date
    project: str
    text: str
    model: str
    meter: str
    service_tier: str
    quantity: int | None
    amount: Decimal
    currency: str


def amount_of(said: object) -> Decimal:
    """An exact amount from text or a JSON number read as text; at most PLACES decimals. Raises ValueError."""
    if isinstance(said, bool) or not isinstance(said, (str, int, Decimal)):
        raise ValueError(f"{said!r}: expected an amount, such as 12.34")
    try:
        amount = Decimal(said.strip() if isinstance(said, str) else said)
    except ArithmeticError:
        raise ValueError(f"{said!r}: expected an amount, such as 12.34") from None
    if not amount.is_finite() or abs(amount) >= _MOST:
        raise ValueError(f"{str(said)[:80]!r}: expected an amount below 10 to the 18th")
    exponent = amount.as_tuple().exponent
    if isinstance(exponent, int) and exponent >= -PLACES:
        return amount
    return amount.quantize(Decimal(1).scaleb(-PLACES), ROUND_HALF_EVEN, _DIGITS)


def tiers(*named: str) -> str:
    """The tiers that hold at once, in one word; standard ones are left out."""
    return ", ".join(name for name in named if name)


def with_quantities(
    lines: Iterable[tuple[BillLine, Hashable]], used: Mapping[Hashable, int]
) -> list[BillLine]:
    """Lines with what the usage report counted, where the bill itself does not say it.

    lines   with the key that the usage report has for them.

    A count that several lines would share is given to none: nobody says which of them it belongs to.
    """
    known = list(lines)
    sharing: dict[Hashable, int] = {}
    for _, key in known:
        sharing[key] = sharing.get(key, 0) + 1
    return [
        replace(line, quantity=used[key])
        if line.quantity is None and line.meter and sharing[key] == 1 and key in used
        else line
        for line, key in known
    ]
