"""What is held back of budgets for calls that are under way.

Standing       what a budget's scope had spent when it was last looked at: the number that decisions are made on
Reservation    one call's claim, from the decision until the ledger has the call
Hold           what a reservation holds of one budget, and until when

models.py names them, so that Django finds them.
"""

from __future__ import annotations

import uuid

from django.db import models
from django.db.models import Q
from django.utils import timezone

from costwatch.accounts.models import Organization


class Standing(models.Model):
    """A budget's spending in its period. Written with the holds that it takes the place of, in one transaction."""

    budget = models.OneToOneField("budgets.Budget", on_delete=models.CASCADE, primary_key=True)
    period_start = models.DateTimeField()
    period_end = models.DateTimeField()
    spent = models.DecimalField(max_digits=60, decimal_places=30)
    unpriced_calls = models.BigIntegerField()  # not in spent
    as_of = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.spent} of budget {self.budget_id} at {self.as_of:%Y-%m-%d %H:%M:%S}"


class Reservation(models.Model):
    """A call that was allowed. What it holds ends when the ledger has the call, it is released, or its time is over."""

    class State(models.TextChoices):
        OPEN = "open"
        SETTLED = "settled"
        RELEASED = "released"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE)
    key = models.CharField(max_length=255, null=True)  # Idempotency-Key
    asked = models.CharField(max_length=64)  # SHA-256 of what was asked with it
    answer = models.JSONField()  # what was answered, for who asks again
    state = models.CharField(max_length=16, choices=State.choices, default=State.OPEN)
    made_at = models.DateTimeField(default=timezone.now)
    cost = models.DecimalField(max_digits=40, decimal_places=20, null=True)  # as it was settled
    call_id = models.UUIDField(null=True)  # of the ledger, by the provider's response id
    counted_at = models.DateTimeField(null=True)  # the ledger has it since

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["organization", "key"], name="reservation_once"),
            models.CheckConstraint(
                condition=Q(state="settled", cost__isnull=False)
                | Q(state__in=["open", "released"], cost=None),
                name="reservation_cost",
            ),
        ]
        indexes = [
            models.Index(
                fields=["organization", "call_id"],
                condition=Q(call_id__isnull=False, counted_at=None),
                name="reservation_not_counted",
            ),
            models.Index(fields=["made_at"], name="reservation_by_age"),
        ]

    def __str__(self) -> str:
        return f"{self.id}: {self.state}"


class Hold(models.Model):
    """An amount that a reservation holds of one budget in one period."""

    reservation = models.ForeignKey(Reservation, on_delete=models.CASCADE, related_name="holds")
    budget = models.ForeignKey("budgets.Budget", on_delete=models.CASCADE, db_index=False)
    period_start = models.DateTimeField()
    amount = models.DecimalField(max_digits=40, decimal_places=20)
    until = models.DateTimeField()

    class Meta:
        indexes = [models.Index(fields=["budget", "until"], name="hold_until")]
        constraints = [
            models.UniqueConstraint(fields=["reservation", "budget"], name="hold_once"),
            models.CheckConstraint(condition=Q(amount__gte=0), name="hold_amount"),
        ]

    def __str__(self) -> str:
        return f"{self.amount} of budget {self.budget_id} until {self.until:%H:%M:%S}"
