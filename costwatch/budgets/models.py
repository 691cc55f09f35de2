"""Budgets, what was said about them, and to whom it was delivered.

Budget     an amount for a month, for a team with what is below it, or for the whole organization
Alert      a threshold was crossed in a period: once, whoever notices
Delivery   one alert to one address: pending, sent or failed
"""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q
from django.utils import timezone

from costwatch.accounts.models import Membership, Organization, Team

MOST_THRESHOLDS = 20
MOST_ADDRESSES = 50


def default_thresholds() -> list[int]:
    return [50, 80, 100]


class Budget(models.Model):
    """What a team, or the whole organization, means to spend in a month of its time zone."""

    class PeriodKind(models.TextChoices):
        MONTH = "month"

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE)
    team = models.ForeignKey(Team, on_delete=models.PROTECT, null=True, blank=True)
    name = models.CharField(max_length=200)
    amount = models.DecimalField(max_digits=20, decimal_places=6)
    currency = models.CharField(max_length=3)
    period = models.CharField(max_length=16, choices=PeriodKind.choices, default=PeriodKind.MONTH)
    # Percent of the amount, each of which is told once a period.
    thresholds = ArrayField(models.PositiveSmallIntegerField(), default=default_thresholds)
    # Who is told. Nobody named: the organization's owners and finance.
    addresses = ArrayField(models.EmailField(), default=list, blank=True)
    members = models.ManyToManyField(Membership, blank=True)
    active = models.BooleanField(default=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["name", "id"]
        constraints = [
            models.CheckConstraint(condition=Q(amount__gt=0), name="budget_amount_positive"),
            models.CheckConstraint(condition=Q(period__in=["month"]), name="budget_period"),
        ]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        if self.amount is not None and self.amount <= 0:
            raise ValidationError({"amount": "expected an amount above zero"})
        if self.team is not None and self.team.organization_id != self.organization_id:
            raise ValidationError({"team": "expected a team of this organization"})
        if self.currency != self.organization.currency:
            raise ValidationError(
                {"currency": f"expected {self.organization.currency}, in which costs are computed"}
            )
        if not self.thresholds or min(self.thresholds) < 1:
            raise ValidationError({"thresholds": "expected percents above zero, such as 50, 80"})
        for field, most in (("thresholds", MOST_THRESHOLDS), ("addresses", MOST_ADDRESSES)):
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
    """A budget's threshold was crossed in the period that began then. The figures are of the moment it was noticed."""

    budget = models.ForeignKey(Budget, on_delete=models.CASCADE, related_name="alerts")
    period_start = models.DateTimeField()
    threshold = models.PositiveSmallIntegerField()
    spent = models.DecimalField(max_digits=40, decimal_places=20)
    amount = models.DecimalField(max_digits=20, decimal_places=6)
    currency = models.CharField(max_length=3)
    noticed_at = models.DateTimeField()

    class Meta:
        ordering = ["-noticed_at", "-threshold"]
        constraints = [
            models.UniqueConstraint(
                fields=["budget", "period_start", "threshold"], name="alert_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.budget}: {self.threshold} % crossed"


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
