"""Budgets, what was said about them, and to whom it was delivered.

Budget     an amount for a period, for a team with what is below it, a feature, a model …, or everything
Alert      a threshold was crossed in a period: once, whoever notices
Delivery   one alert to one address: pending, sent or failed

What is held back for calls under way is in reservation_models.py.
"""

from __future__ import annotations

from decimal import Decimal

from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q
from django.utils import timezone

from costwatch.accounts.models import Membership, Organization, Team
from costwatch.attribution.models import Source
from costwatch.budgets.reservation_models import Hold as Hold
from costwatch.budgets.reservation_models import Reservation as Reservation
from costwatch.budgets.reservation_models import Standing as Standing

MOST_THRESHOLDS = 20
MOST_ADDRESSES = 50
LAST_START_DAY = {"day": 1, "week": 7, "month": 28, "quarter": 28}


def default_thresholds() -> list[int]:
    return [50, 80, 100]


class Budget(models.Model):
    """What is meant to be spent in a period of the organization's time zone.

    Of a team with the teams below it, a feature, a model, a provider, a source. What is named narrows: a team
    and a model are that model's cost to that team. Nothing named: the whole organization.
    """

    class PeriodKind(models.TextChoices):
        DAY = "day"
        WEEK = "week"
        MONTH = "month"
        QUARTER = "quarter"

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE)
    team = models.ForeignKey(Team, on_delete=models.PROTECT, null=True, blank=True)
    feature = models.CharField(max_length=255, blank=True)
    model = models.CharField(max_length=255, blank=True)
    provider = models.CharField(max_length=255, blank=True)
    source = models.ForeignKey(Source, on_delete=models.PROTECT, null=True, blank=True)
    name = models.CharField(max_length=200)
    amount = models.DecimalField(max_digits=20, decimal_places=6)
    currency = models.CharField(max_length=3)
    period = models.CharField(max_length=16, choices=PeriodKind.choices, default=PeriodKind.MONTH)
    # The first day: of a week 1 (Monday) to 7, of a month or a quarter's first month 1 to 28.
    start_day = models.PositiveSmallIntegerField(default=1)
    # Percent of the amount, each of which is told once a period.
    thresholds = ArrayField(models.PositiveSmallIntegerField(), default=default_thresholds)
    # The same, of what the period is expected to cost at its end.
    forecast_thresholds = ArrayField(models.PositiveSmallIntegerField(), default=list, blank=True)
    # Who is told. Nobody named: the organization's owners and finance.
    addresses = ArrayField(models.EmailField(), default=list, blank=True)
    members = models.ManyToManyField(Membership, blank=True)
    active = models.BooleanField(default=True)
    # Percent of the amount from which on calls that ask are degraded, or denied. Null: they never are.
    degrade_at = models.PositiveSmallIntegerField(null=True, blank=True)
    deny_at = models.PositiveSmallIntegerField(null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["name", "id"]
        constraints = [
            models.CheckConstraint(
                condition=~Q(degrade_at=0) & ~Q(deny_at=0), name="budget_enforced_above_zero"
            ),
            models.CheckConstraint(condition=Q(amount__gt=0), name="budget_amount_positive"),
            models.CheckConstraint(
                condition=Q(period="day", start_day=1)
                | Q(period="week", start_day__range=(1, 7))
                | Q(period__in=["month", "quarter"], start_day__range=(1, 28)),
                name="budget_period",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        if self.amount is not None and self.amount <= 0:
            raise ValidationError({"amount": "expected an amount above zero"})
        if self.team is not None and self.team.organization_id != self.organization_id:
            raise ValidationError({"team": "expected a team of this organization"})
        if self.source is not None and self.source.organization_id != self.organization_id:
            raise ValidationError({"source": "expected a source of this organization"})
        last_day = LAST_START_DAY.get(self.period, 1)
        if self.start_day is not None and not 1 <= self.start_day <= last_day:
            raise ValidationError(
                {
                    "start_day": f"of a {self.period} expected 1 to {last_day}, found {self.start_day}"
                }
            )
        if self.currency != self.organization.currency:
            raise ValidationError(
                {"currency": f"expected {self.organization.currency}, in which costs are computed"}
            )
        if not self.thresholds or min(self.thresholds) < 1:
            raise ValidationError({"thresholds": "expected percents above zero, such as 50, 80"})
        if self.forecast_thresholds and min(self.forecast_thresholds) < 1:
            raise ValidationError({"forecast_thresholds": "expected percents above zero"})
        if self.degrade_at is not None and self.deny_at is not None and self.degrade_at >= self.deny_at:  # fmt: skip
            raise ValidationError({"degrade_at": "expected less than calls are denied at"})
        for field, most in (
            ("thresholds", MOST_THRESHOLDS),
            ("forecast_thresholds", MOST_THRESHOLDS),
            ("addresses", MOST_ADDRESSES),
        ):
            if (found := len(getattr(self, field))) > most:
                raise ValidationError({field: f"expected at most {most}, found {found}"})

    def recipients(self) -> list[str]:
        """Addresses that an alert goes to, each once."""
        named = [*self.addresses, *self.members.values_list("user__email", flat=True)]
        if not named:
            in_charge = Membership.objects.filter(
                organization_id=self.organization_id,
                role__in=[Membership.Role.OWNER, Membership.Role.FINANCE],
                user__is_active=True,
            )
            named = list(in_charge.order_by("id").values_list("user__email", flat=True))
        return list(dict.fromkeys(address.strip().lower() for address in named))


class Alert(models.Model):
    """A budget's threshold was crossed in a period. The figures are of the moment it was noticed."""

    class Basis(models.TextChoices):
        ACTUAL = "actual"  # spent
        FORECAST = "forecast"  # expected at the period's end

    budget = models.ForeignKey(Budget, on_delete=models.CASCADE, related_name="alerts")
    period_start = models.DateTimeField()
    period_end = models.DateTimeField()
    basis = models.CharField(max_length=16, choices=Basis.choices, default=Basis.ACTUAL)
    threshold = models.PositiveSmallIntegerField()
    spent = models.DecimalField(max_digits=40, decimal_places=20)
    expected = models.DecimalField(max_digits=40, decimal_places=20, null=True)  # of a forecast
    amount = models.DecimalField(max_digits=20, decimal_places=6)
    currency = models.CharField(max_length=3)
    noticed_at = models.DateTimeField()

    class Meta:
        ordering = ["-noticed_at", "-threshold"]
        constraints = [
            models.UniqueConstraint(
                fields=["budget", "period_start", "period_end", "basis", "threshold"],
                name="alert_once",
            ),
            models.CheckConstraint(
                condition=Q(basis="actual", expected=None)
                | Q(basis="forecast", expected__isnull=False),
                name="alert_basis",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.budget}: {self.threshold} % crossed ({self.basis})"

    @property
    def decisive(self) -> Decimal:
        """The amount that crossed the threshold: what is spent, or expected."""
        return self.spent if self.expected is None else self.expected


class Delivery(models.Model):
    """An alert on its way to one address. Sent or failed is the end; pending is tried again at next_attempt_at."""

    class Channel(models.TextChoices):
        MAIL = "mail"

    class State(models.TextChoices):
        PENDING = "pending"
        SENT = "sent"
        FAILED = "failed"

    alert = models.ForeignKey(Alert, on_delete=models.CASCADE, related_name="deliveries")
    channel = models.CharField(max_length=16, choices=Channel.choices, default=Channel.MAIL)
    address = models.CharField(max_length=320)
    state = models.CharField(max_length=16, choices=State.choices, default=State.PENDING)
    attempts = models.PositiveSmallIntegerField(default=0)
    next_attempt_at = models.DateTimeField(default=timezone.now)
    last_error = models.TextField(blank=True)
    sent_at = models.DateTimeField(null=True)

    class Meta:
        verbose_name_plural = "deliveries"
        indexes = [
            models.Index(
                fields=["next_attempt_at"], condition=Q(state="pending"), name="delivery_due"
            )
        ]
        constraints = [
            models.UniqueConstraint(fields=["alert", "channel", "address"], name="delivery_once"),
            models.CheckConstraint(condition=Q(channel__in=["mail"]), name="delivery_channel"),
            models.CheckConstraint(
                condition=Q(state__in=["pending", "failed"], sent_at=None)
                | Q(state="sent", sent_at__isnull=False),
                name="delivery_state",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.alert} to {self.address}: {self.state}"
