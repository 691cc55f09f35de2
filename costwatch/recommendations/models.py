"""What to change to pay less: computed from the rollups, kept so that it can be dismissed and followed up."""

from __future__ import annotations

from decimal import Decimal

from django.db import models
from django.db.models import Q
from django.utils import timezone

from costwatch.accounts.models import Organization, Team
from costwatch.attribution.models import Offering, Source
from costwatch.domain.savings import SavingRange


class Recommendation(models.Model):
    """One measure for one scope: a source, a team, an offering, or (none of them) the organization.

    Rows are written by compute.py and only their status by people.
    """

    class Layer(models.TextChoices):
        MODEL = "model"
        SERVING = "serving"
        HARDWARE = "hardware"
        SYSTEM = "system"

    class Verdict(models.TextChoices):
        PAYS = "pays"
        NOT_YET = "not_yet"  # too little volume; the evidence says from which on it pays

    class Quality(models.TextChoices):
        EXACT = "exact"  # the answers are the same by construction
        NOT_MEASURED = "not_measured"
        MEASURED = "measured"

    class Effort(models.TextChoices):
        SWITCH = "switch"  # a setting
        DAYS = "days"
        WEEKS = "weeks"

    class Status(models.TextChoices):
        OPEN = "open"
        DISMISSED = "dismissed"

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE)
    kind = models.CharField(max_length=64)  # a name in kinds/
    layer = models.CharField(max_length=16, choices=Layer.choices)
    source = models.ForeignKey(Source, on_delete=models.CASCADE, null=True)
    team = models.ForeignKey(Team, on_delete=models.CASCADE, null=True)
    offering = models.ForeignKey(Offering, on_delete=models.CASCADE, null=True)
    title = models.CharField(max_length=300)
    advice = models.TextField()  # what to do, and why it saves
    verdict = models.CharField(max_length=16, choices=Verdict.choices)
    # Figures that the estimate was made from, by name with unit; decimals as text.
    evidence = models.JSONField(default=dict)
    saving_low = models.DecimalField(max_digits=40, decimal_places=20)  # per month
    saving_high = models.DecimalField(max_digits=40, decimal_places=20)
    currency = models.CharField(max_length=3)
    latency_effect = models.CharField(max_length=300)
    quality_state = models.CharField(max_length=16, choices=Quality.choices)
    effort = models.CharField(max_length=16, choices=Effort.choices)
    reversible = models.BooleanField()
    status = models.CharField(max_length=16, choices=Status.choices, default=Status.OPEN)
    computed_at = models.DateTimeField(default=timezone.now)

    class Meta:
        # What pays before what does not yet, then by what it saves at most.
        ordering = ["-verdict", "-saving_high", "id"]
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "kind", "source", "team", "offering"],
                nulls_distinct=False,
                name="recommendation_unique",
            ),
            models.CheckConstraint(
                condition=Q(layer__in=["model", "serving", "hardware", "system"]),
                name="recommendation_layer",
            ),
            models.CheckConstraint(
                condition=Q(verdict__in=["pays", "not_yet"]), name="recommendation_verdict"
            ),
            models.CheckConstraint(
                condition=Q(quality_state__in=["exact", "not_measured", "measured"]),
                name="recommendation_quality",
            ),
            models.CheckConstraint(
                condition=Q(effort__in=["switch", "days", "weeks"]), name="recommendation_effort"
            ),
            models.CheckConstraint(
                condition=Q(status__in=["open", "dismissed"]), name="recommendation_status"
            ),
            models.CheckConstraint(
                condition=Q(saving_low__gte=Decimal(0), saving_high__gte=models.F("saving_low")),
                name="recommendation_saving",
            ),
        ]

    def __str__(self) -> str:
        return self.title

    @property
    def saving(self) -> SavingRange:
        """Money per month."""
        return SavingRange(self.saving_low, self.saving_high)
