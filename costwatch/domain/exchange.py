"""Which exchange rate holds on a day: that of the day, or the last one before it that is not too old.

A rate says what one unit of the base currency is in the quote currency. None is turned around or put together from
others: 1/x rarely has an end of decimals, so the amount would depend on where somebody stopped.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

RATE_DIGITS = 24
RATE_PLACES = 12
_CODE = re.compile(r"[A-Z]{3}")


@dataclass(frozen=True, slots=True)
class RateHistory:
    """Of one pair of currencies: rates by the day from which they hold, in order.

    max_age_days   how long a rate holds after its day where no newer one follows: weekends and holidays have none.
    """

    days: Sequence[date]
    rates: Sequence[Decimal]
    max_age_days: int

    def on(self, day: date) -> Decimal | None:
        """None: unknown."""
        place = bisect_right(self.days, day) - 1
        if place < 0 or (day - self.days[place]).days > self.max_age_days:
            return None
        return self.rates[place]


def currency_named(text: str) -> str:
    """The code in capitals. Raises ValueError."""
    code = text.strip().upper()
    if not _CODE.fullmatch(code):
        raise ValueError(f"currency {text!r}: expected a code of three letters, such as EUR")
    return code


def expect_rate(rate: Decimal) -> None:
    """Raises ValueError for what is no rate, or has more digits than are kept."""
    if not rate.is_finite() or rate <= 0:
        raise ValueError(f"rate {rate}: expected a decimal number above zero, such as 0.9217")
    exponent = rate.as_tuple().exponent
    assert isinstance(exponent, int)  # it is finite
    if -exponent > RATE_PLACES or rate.adjusted() >= RATE_DIGITS - RATE_PLACES:
        raise ValueError(
            f"rate {rate}: expected up to {RATE_DIGITS - RATE_PLACES} digits before the point and {RATE_PLACES} after it"
        )
