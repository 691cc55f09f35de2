"""What currencies were worth in the organization's, by day."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from costwatch.accounts.models import Organization, User
from costwatch.domain.exchange import RATE_DIGITS, RATE_PLACES


class ExchangeRate(models.Model):
    """One unit of base is so many of quote, from a UTC day on until the next rate (domain/exchange.py)."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, db_index=False)
    date = models.DateField()
    base = models.CharField(max_length=3)  # the price's currency
    quote = models.CharField(max_length=3)  # the organization's
    rate = models.DecimalField(max_digits=RATE_DIGITS, decimal_places=RATE_PLACES)
    source = models.CharField(max_length=200)  # "API", "command line", the file's name, …
    approved_by = models.ForeignKey(User, on_delete=models.SET_NULL, null=True, blank=True)
    entered_at = models.DateTimeField(default=timezone.now)  # or corrected at

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "base", "quote", "date"], name="exchangerate_unique"
            ),
            models.CheckConstraint(condition=Q(rate__gt=0), name="exchangerate_positive"),
            models.CheckConstraint(condition=~Q(base=F("quote")), name="exchangerate_pair"),
        ]

    def __str__(self) -> str:
        return f"{self.date}: 1 {self.base} = {self.rate.normalize():f} {self.quote}"
