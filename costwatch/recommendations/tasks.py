"""Celery's side of this room. A task takes ids, calls one verb, and is safe twice."""

from datetime import timedelta
from typing import Any

from celery import shared_task
from django.db.models import Exists, OuterRef
from django.utils import timezone

from costwatch.accounts.models import Organization
from costwatch.attribution.models import UsageHour
from costwatch.recommendations import compute

beat_schedule: dict[str, dict[str, Any]] = {
    "recompute-recommendations": {
        "task": "recommendations.recompute_all",
        "schedule": 3600.0,
    },
    # On the first day an hour is long: who has just started wants to see something.
    "recompute-first-recommendations": {
        "task": "recommendations.recompute_young",
        "schedule": 120.0,
    },
}


@shared_task(name="recommendations.recompute")
def recompute(organization_id: int) -> None:
    compute.recompute(organization_id, timezone.now())


@shared_task(name="recommendations.recompute_all")
def recompute_all() -> None:
    for pk in Organization.objects.order_by("id").values_list("id", flat=True):
        recompute.delay(pk)


@shared_task(name="recommendations.recompute_young")
def recompute_young() -> None:
    """Organizations whose usage began within the last day."""
    usage = UsageHour.objects.filter(organization=OuterRef("pk"))
    yesterday = timezone.now() - timedelta(days=1)
    young = Organization.objects.filter(Exists(usage), ~Exists(usage.filter(hour__lt=yesterday)))
    for pk in young.order_by("id").values_list("id", flat=True):
        recompute.delay(pk)
