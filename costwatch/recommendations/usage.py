"""What the kinds look at: a window's sums per source and offering, with the price of the device's time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.db.models import Min, Q, Sum

from costwatch.accounts.models import Organization
from costwatch.attribution.models import Offering, Source, UsageHour
from costwatch.domain.periods import Period, hour_of
from costwatch.domain.pricing import UnitPrice
from costwatch.pricing.exchange import converted
from costwatch.pricing.models import Meter, Rate

_SUMS = (
    "calls",
    "input_tokens",
    "output_tokens",
    "device_ns",
    "device_ns_marginal",
    "prefix_repeated_tokens",
    "repeated_device_ns",
)


@dataclass(frozen=True, slots=True)
class OwnUsage:
    """What a source used of an offering on one's own devices. price is of the device's time."""

    source: Source
    offering: Offering
    price: UnitPrice
    calls: int
    input_tokens: int
    output_tokens: int
    device_ns: int
    device_ns_marginal: int
    prefix_repeated_tokens: int
    repeated_device_ns: int

    @property
    def cost(self) -> Decimal:
        return self.price.cost(self.device_ns).amount


def first_hour(organization: Organization) -> datetime | None:
    """When its usage begins; None without any."""
    earliest = UsageHour.objects.filter(organization=organization, calls__gt=0)
    found: datetime | None = earliest.aggregate(first=Min("hour"))["first"]
    return found


def own_usage(organization: Organization, period: Period) -> list[OwnUsage]:
    """By source and offering, at the price of the period's last hour. What has no price is left out: unknown is unknown."""
    rows = _sums(organization, period)
    prices = _prices(organization, {row["offering_id"] for row in rows}, period.end)
    sources = Source.objects.in_bulk({row["source_id"] for row in rows})
    offerings = Offering.objects.in_bulk(set(prices))
    return [
        OwnUsage(
            sources[row["source_id"]],
            offerings[row["offering_id"]],
            prices[row["offering_id"]],
            **{name: int(row[f"sum_{name}"]) for name in _SUMS},
        )
        for row in rows
        if row["offering_id"] in prices
    ]


def _sums(organization: Organization, period: Period) -> list[dict[str, Any]]:
    rows = (
        UsageHour.objects.filter(
            organization=organization, hour__gte=hour_of(period.start), hour__lt=period.end
        )
        .exclude(offering__device_type="")
        .values("source_id", "offering_id")
        .annotate(**{f"sum_{name}": Sum(name) for name in _SUMS})
        .order_by("source_id", "offering_id")
    )
    sums = [dict[str, Any](row) for row in rows]
    return [row for row in sums if row["sum_device_ns"] > 0]


def _prices(
    organization: Organization, offerings: Iterable[int], moment: datetime
) -> dict[int, UnitPrice]:
    rates = Rate.objects.filter(
        Q(valid_from=None) | Q(valid_from__lte=moment),
        Q(valid_until=None) | Q(valid_until__gt=moment),
        organization=organization,
        offering_id__in=offerings,
        meter=Meter.DEVICE_NS,
    )
    prices = {rate.offering_id: rate.price.value for rate in rates.select_related("price")}
    return converted(organization, prices, moment)
