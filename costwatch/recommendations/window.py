"""How long was looked at, and what that says about a month."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from costwatch.domain.money import EXACT
from costwatch.domain.periods import Period, hour_of
from costwatch.domain.savings import SavingRange

LONGEST = timedelta(days=28)
WHOLE_WEEK = timedelta(days=7)
HOURS_PER_MONTH = Decimal("730.5")
# Traffic that was seen for less than a week may be that of working hours only: 40 of a week's 168.
WORKING_SHARE = EXACT.divide(Decimal(40), Decimal(168))


@dataclass(frozen=True, slots=True)
class Window:
    """From the first hour of use, but not longer ago than LONGEST, until now."""

    period: Period

    @classmethod
    def until(cls, now: datetime, first_hour: datetime) -> Window:
        """At least an hour: less would make a month out of a few calls."""
        start = max(first_hour, hour_of(now - LONGEST))
        return cls(Period(min(start, now - timedelta(hours=1)), now))

    @property
    def hours(self) -> Decimal:
        return EXACT.divide(Decimal(round(self.period.length.total_seconds())), Decimal(3600))

    @property
    def saw_whole_weeks(self) -> bool:
        return self.period.length >= WHOLE_WEEK

    def per_month(self, observed: SavingRange) -> SavingRange:
        """What was seen in the window, extended to a month; the lower end as if it had been working hours, if need be."""
        factor = EXACT.divide(HOURS_PER_MONTH, self.hours)
        low = observed.low if self.saw_whole_weeks else EXACT.multiply(observed.low, WORKING_SHARE)
        return SavingRange(low, observed.high).times(factor)

    def count_per_month(self, observed: int) -> int:
        return round(observed * HOURS_PER_MONTH / self.hours)
