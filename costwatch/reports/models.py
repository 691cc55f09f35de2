"""Months that were closed, and what each team owes for them.

    Month           where an organization's month stands: open → review → closed
    Closing         one closing of a month. A month that was reopened and closed again has two; the last is in force
    Statement       what one team owes, frozen; one more for what nobody pays
    StatementLine   quantity × unit price = cost, of one thing, frozen
    ProviderBill …  what providers bill: bill_models.py

Closing, Statement and StatementLine are written once, in one transaction, by close.py. Triggers of the database refuse
to change or delete them, and to add to one that is whole (migration 0001).
"""

from __future__ import annotations

from datetime import datetime

from django.db import models
from django.db.models import Q
from django.utils import timezone

from costwatch.accounts.models import Organization, Team
from costwatch.attribution.models import WholeNumberField
from costwatch.domain.periods import Period
from costwatch.domain.pricing import CONVERTED_PLACES, COST_PLACES, PriceState

# Django looks for all of them here.
from costwatch.reports.bill_models import BillFetch as BillFetch
from costwatch.reports.bill_models import ProviderAccount as ProviderAccount
from costwatch.reports.bill_models import ProviderBill as ProviderBill
from costwatch.reports.bill_models import ProviderBillLine as ProviderBillLine
from costwatch.reports.bill_models import ProviderProject as ProviderProject

# Sums of many quantities of 38 digits, each times a price: nothing that is stored is ever rounded for want of room.
_COST_DIGITS = 80
_EXACT_DIGITS = 92  # with those of an exchange rate


# Up to three places are a currency's; a bill has two or none of them mostly.
_BILLED_PLACES = 3


class State(models.TextChoices):
    OPEN = "open"  # what comes in late changes it
    REVIEW = "review"  # the same, and finance is looking at it
    CLOSED = "closed"  # frozen


class Month(models.Model):
    """A month without a row is open."""

    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, db_index=False)
    name = models.CharField(max_length=7)  # 2026-11
    state = models.CharField(max_length=8, choices=State.choices, default=State.OPEN)
    changed_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["organization", "name"], name="month_unique"),
            models.CheckConstraint(condition=Q(state__in=State.values), name="month_state"),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.state})"


class Closing(models.Model):
    """What a month came to when it was closed; amounts are in its currency. sha256 is over all of its statements."""

    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, db_index=False)
    month = models.ForeignKey(Month, on_delete=models.PROTECT, related_name="closings")
    edition = (
        models.PositiveIntegerField()
    )  # from 1 on; the highest one of a closed month is in force
    organization_name = models.CharField(max_length=200)
    start = models.DateTimeField()
    end = models.DateTimeField()
    currency = models.CharField(max_length=3)
    places = models.PositiveSmallIntegerField()  # that its amounts are rounded to
    statements_count = models.PositiveIntegerField()
    lines_count = models.PositiveIntegerField()
    unpriced_lines = models.PositiveIntegerField()  # that the total lacks a part of
    unknown_usage_calls = models.BigIntegerField()  # of which nobody said how much they used
    adjusted = models.JSONField(default=dict)  # months that it corrects → [start, end] of each
    exact_cost = models.DecimalField(max_digits=_EXACT_DIGITS, decimal_places=CONVERTED_PLACES)
    cost = models.DecimalField(max_digits=_COST_DIGITS, decimal_places=_BILLED_PLACES)
    unattributed = models.DecimalField(max_digits=_COST_DIGITS, decimal_places=_BILLED_PLACES)
    sha256 = models.CharField(max_length=64)
    closed_at = models.DateTimeField()
    closed_by = models.CharField(max_length=254)  # a person's address; empty: a program did

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "month", "edition"], name="closing_unique"
            )
        ]

    def __str__(self) -> str:
        return f"{self.month.name}, edition {self.edition}"

    @property
    def period(self) -> Period:
        start, end = self.start, self.end
        assert isinstance(start, datetime)
        assert isinstance(end, datetime)
        return Period(start, end)


class Statement(models.Model):
    """What one team owes for a month. Its lines' costs sum to its cost."""

    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, db_index=False)
    closing = models.ForeignKey(Closing, on_delete=models.PROTECT, related_name="statements")
    number = models.PositiveIntegerField()  # from 1 on, in the order of the closing
    team = models.ForeignKey(Team, on_delete=models.PROTECT, null=True)  # null: unattributed
    team_name = models.CharField(max_length=200)  # as it was called then, as the next
    cost_centre = models.CharField(max_length=64, blank=True)
    lines_count = models.PositiveIntegerField()
    unpriced_lines = models.PositiveIntegerField()
    exact_cost = models.DecimalField(max_digits=_EXACT_DIGITS, decimal_places=CONVERTED_PLACES)
    cost = models.DecimalField(max_digits=_COST_DIGITS, decimal_places=_BILLED_PLACES)
    sha256 = models.CharField(max_length=64)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "closing", "number"], name="statement_unique"
            )
        ]

    def __str__(self) -> str:
        return f"{self.team_name}, {self.closing}"


class StatementLine(models.Model):
    """As lines.Line says. Of an adjustment every number is a difference to what was frozen before."""

    class Kind(models.TextChoices):
        USAGE = "usage"
        CAPACITY = "capacity"  # one's own devices' time that no call used
        ADJUSTMENT = "adjustment"  # to an earlier month

    class Cause(models.TextChoices):
        LATE = "late"  # quantities that came after the closing
        PRICE = "price"  # another price, for the same quantity
        EXCHANGE_RATE = (
            "exchange_rate"  # another exchange rate, for the same amount in the price's currency
        )
        RULE = "rule"  # another team pays for it
        SEVERAL = "several"  # of these, or it can't be told

    pk = models.CompositePrimaryKey("organization", "statement", "number")
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, db_index=False)
    statement = models.ForeignKey(
        Statement, on_delete=models.PROTECT, related_name="lines", db_index=False
    )
    number = models.PositiveIntegerField()  # from 1 on
    kind = models.CharField(max_length=16, choices=Kind.choices)
    used_in = models.CharField(
        max_length=7
    )  # the month; of an adjustment, the one that it corrects
    cause = models.CharField(max_length=16, choices=Cause.choices, blank=True)
    provider = models.CharField(max_length=255)
    model = models.CharField(max_length=255)
    device_type = models.CharField(max_length=255)
    service_tier = models.CharField(max_length=64)
    feature = models.CharField(max_length=255)
    meter = models.CharField(max_length=32)
    method = models.CharField(max_length=16)
    calls = models.BigIntegerField()
    quantity = WholeNumberField()
    unpriced_quantity = WholeNumberField()
    unit_price = models.DecimalField(max_digits=24, decimal_places=12, null=True)
    unit_quantity = models.BigIntegerField(null=True)
    unit_label = models.CharField(max_length=64)
    price_currency = models.CharField(max_length=3)  # empty: there is no one price
    # In the price's currency, where that is not the closing's; else null.
    price_cost = models.DecimalField(max_digits=_COST_DIGITS, decimal_places=COST_PLACES, null=True)
    state = models.CharField(max_length=8)
    exact_cost = models.DecimalField(max_digits=_EXACT_DIGITS, decimal_places=CONVERTED_PLACES)
    cost = models.DecimalField(max_digits=_COST_DIGITS, decimal_places=_BILLED_PLACES)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(kind__in=["usage", "capacity"], cause="")
                | Q(
                    kind="adjustment",
                    cause__in=["late", "price", "exchange_rate", "rule", "several"],
                ),
                name="statementline_kind",
            ),
            models.CheckConstraint(
                condition=Q(state__in=[state.value for state in PriceState]),
                name="statementline_state",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.statement} line {self.number}"
