"""Prices, and which one holds for what an organization uses.

    PriceBook     the catalogue, which is everybody's, and each organization's own prices
    Price         what a SKU costs over a range of whole UTC hours
    Rate          a projection: which price an offering's meter has when; rebuilt by rates.py, read by cost.py
    RateBuild     what the projection was built from
    ExchangeRate  what other currencies are worth in the organization's: exchange_models.py
    Pool …        one's own devices in groups, and who carries their idle time: pool_models.py

No row is no price: unknown, which is not free. A price of zero is free.
"""

from __future__ import annotations

from decimal import Decimal

from django.contrib.postgres.constraints import ExclusionConstraint
from django.contrib.postgres.fields import DateTimeRangeField, RangeBoundary, RangeOperators
from django.db import models
from django.db.models import F, Func, Q, Value
from django.utils import timezone

from costwatch.accounts.models import Organization, User
from costwatch.attribution.models import TOKEN_METERS, Offering
from costwatch.domain.pricing import NS_PER_HOUR, PriceState, UnitPrice, state_of
from costwatch.pricing.exchange_models import ExchangeRate as ExchangeRate
from costwatch.pricing.pool_models import IdlePolicy as IdlePolicy
from costwatch.pricing.pool_models import Pool as Pool
from costwatch.pricing.pool_models import PoolRule as PoolRule
from costwatch.pricing.pool_models import Reservation as Reservation


class Meter(models.TextChoices):
    """What has a price. The values are columns of UsageHour."""

    INPUT_TOKENS = "input_tokens"
    CACHE_READ_INPUT_TOKENS = "cache_read_input_tokens"
    CACHE_WRITE_INPUT_TOKENS = "cache_write_input_tokens"
    OUTPUT_TOKENS = "output_tokens"
    DEVICE_NS = "device_ns"


assert {*TOKEN_METERS, "device_ns"} == set(Meter.values)


def unit_label(meter: str, unit_quantity: int) -> str:
    """What a price is for, in words: '1,000,000 tokens', 'device-hour'."""
    if meter == Meter.DEVICE_NS:
        hours, rest = divmod(unit_quantity, NS_PER_HOUR)
        if rest:
            return f"{unit_quantity:,} ns"
        return "device-hour" if hours == 1 else f"{hours:,} device-hours"
    return f"{unit_quantity:,} tokens"


class PriceBook(models.Model):
    """A set of prices. organization null: the catalogue that all share."""

    class Kind(models.TextChoices):
        LIST = "list"  # what a provider asks of everybody
        CONTRACTED = "contracted"  # what this organization pays; comes first

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, null=True)
    kind = models.CharField(max_length=16, choices=Kind.choices)
    name = models.CharField(max_length=200)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "kind", "name"],
                nulls_distinct=False,
                name="pricebook_unique",
            ),
            models.CheckConstraint(
                condition=Q(kind__in=["list", "contracted"]), name="pricebook_kind"
            ),
        ]

    def __str__(self) -> str:
        return self.name


def _whole_hour(field: str) -> Q:
    hour = Func(
        Value("hour"),
        F(field),
        Value("UTC"),
        function="date_trunc",
        output_field=models.DateTimeField(),
    )
    return Q(**{field: hour})


class Price(models.Model):
    """What unit_quantity of a SKU costs from an hour on, until an hour.

    A SKU is provider × model × meter × service tier (empty: standard), or device type × device_ns.
    """

    book = models.ForeignKey(PriceBook, on_delete=models.CASCADE, related_name="prices")
    provider = models.CharField(max_length=255, blank=True)
    model = models.CharField(max_length=255, blank=True)
    meter = models.CharField(max_length=32, choices=Meter.choices)
    service_tier = models.CharField(max_length=64, blank=True)
    device_type = models.CharField(max_length=255, blank=True)
    unit_price = models.DecimalField(max_digits=24, decimal_places=12)
    unit_quantity = models.BigIntegerField()
    currency = models.CharField(max_length=3)
    valid_from = models.DateTimeField(null=True, blank=True)  # a whole hour; null: always was
    valid_until = models.DateTimeField(null=True, blank=True)  # excluded; null: from then on
    source = models.CharField(max_length=200)  # "genai-prices 0.2.3", "command line", …
    approved_by = models.ForeignKey(User, on_delete=models.SET_NULL, null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        indexes = [models.Index(fields=["provider", "model"], name="price_by_model")]
        constraints = [
            ExclusionConstraint(
                name="price_no_overlap",
                expressions=[
                    ("book", RangeOperators.EQUAL),
                    ("provider", RangeOperators.EQUAL),
                    ("model", RangeOperators.EQUAL),
                    ("meter", RangeOperators.EQUAL),
                    ("service_tier", RangeOperators.EQUAL),
                    ("device_type", RangeOperators.EQUAL),
                    (
                        Func(
                            F("valid_from"),
                            F("valid_until"),
                            RangeBoundary(),
                            function="tstzrange",
                            output_field=DateTimeRangeField(),
                        ),
                        RangeOperators.OVERLAPS,
                    ),
                ],
            ),
            models.CheckConstraint(condition=Q(meter__in=Meter.values), name="price_meter"),
            models.CheckConstraint(condition=Q(unit_price__gte=0), name="price_not_negative"),
            models.CheckConstraint(condition=Q(unit_quantity__gt=0), name="price_quantity"),
            models.CheckConstraint(condition=_whole_hour("valid_from"), name="price_from_hour"),
            models.CheckConstraint(condition=_whole_hour("valid_until"), name="price_until_hour"),
            models.CheckConstraint(
                condition=Q(valid_from__isnull=True)
                | Q(valid_until__isnull=True)
                | Q(valid_until__gt=F("valid_from")),
                name="price_period_not_empty",
            ),
            # A device is paid by its time, tokens are bought from a provider.
            models.CheckConstraint(
                condition=Q(meter="device_ns", provider="", model="", service_tier="")
                & ~Q(device_type="")
                | ~Q(meter="device_ns") & Q(device_type="") & ~Q(model=""),
                name="price_sku",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.sku}: {self.unit_price.normalize():f} {self.currency} per {self.unit_label}"

    @property
    def sku(self) -> str:
        if self.device_type:
            return f"{self.device_type} {self.meter}"
        tier = f" ({self.service_tier})" if self.service_tier else ""
        return f"{self.provider}/{self.model} {self.meter}{tier}"

    @property
    def unit_label(self) -> str:
        return unit_label(self.meter, self.unit_quantity)

    @property
    def value(self) -> UnitPrice:
        return UnitPrice(Decimal(self.unit_price), self.unit_quantity, self.currency)

    @property
    def state(self) -> PriceState:
        return state_of(self.unit_price)


class Rate(models.Model):
    """Which price an offering's meter has in which hours. The ranges of a meter do not overlap; a gap is unknown."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, db_index=False)
    offering = models.ForeignKey(Offering, on_delete=models.CASCADE, related_name="rates")
    meter = models.CharField(max_length=32)
    price = models.ForeignKey(Price, on_delete=models.CASCADE)
    valid_from = models.DateTimeField(null=True)
    valid_until = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "offering", "meter", "valid_from"],
                nulls_distinct=False,
                name="rate_unique",
            )
        ]

    def __str__(self) -> str:
        return f"{self.offering} {self.meter}: {self.price}"


class RateBuild(models.Model):
    """How many offerings an organization had when its rates were built. Offerings are never deleted."""

    organization = models.OneToOneField(Organization, on_delete=models.CASCADE, primary_key=True)
    offerings = models.IntegerField()
    built_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.organization}: {self.offerings} offerings"
