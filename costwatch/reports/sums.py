"""Calls and what they cost, of several rows together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from costwatch.domain import money
from costwatch.pricing.cost import CostRow
from costwatch.pricing.sources import MovedUse, PaidUse


@dataclass(frozen=True, slots=True)
class Sum:
    """What has no price is in unpriced_calls and not in cost, which is exact."""

    calls: int
    unknown_usage_calls: int
    unpriced_calls: int
    cost: Decimal

    @property
    def shown_cost(self) -> Decimal | None:
        """None where nothing of it has a price, or nobody said how much it was: unknown is not free."""
        unknown = self.unpriced_calls or self.unknown_usage_calls
        return None if not self.cost and unknown else self.cost


def sum_of(rows: Iterable[CostRow | MovedUse | PaidUse | Sum]) -> Sum:
    known = list(rows)
    return Sum(
        calls=sum(row.calls for row in known),
        unknown_usage_calls=sum(row.unknown_usage_calls for row in known),
        unpriced_calls=sum(row.unpriced_calls for row in known),
        cost=money.total(row.cost for row in known),
    )
