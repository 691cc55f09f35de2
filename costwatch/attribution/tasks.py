"""Celery's side of this room. A task takes ids, calls one verb, and is safe twice."""

from datetime import datetime, timedelta
from typing import Any

from celery import shared_task
from django.utils import timezone

from costwatch.accounts.models import Organization
from costwatch.attribution import content, modelled, partitions, rollups, token_streams

beat_schedule: dict[str, dict[str, Any]] = {
    # The receiver asks for this itself; the sweep finds what it could not ask for, having been killed.
    "add-waiting-batches": {
        "task": "attribution.add_waiting_batches",
        "schedule": 1.0,
        "options": {"expires": 10.0},
    },
    "make-partitions": {"task": "attribution.make_partitions", "schedule": 3600.0},
    "model-device-time": {
        "task": "attribution.model_due_hours",
        "schedule": 300.0,
        "options": {"expires": 300.0},
    },
    "forget-old-metrics": {"task": "attribution.forget_old_metrics", "schedule": 3600.0},
    # Who lowers the retention asks for this itself.
    "delete-past-contents": {"task": "attribution.delete_past_contents", "schedule": 600.0},
}


@shared_task(name="attribution.add_batches")
def add_batches(organization_id: int) -> None:
    rollups.add_batches(organization_id)


@shared_task(name="attribution.add_waiting_batches")
def add_waiting_batches() -> None:
    # A task each: what is wrong with one organization's must not hold up the others'.
    for organization_id in rollups.organizations_waiting():
        add_batches.delay(organization_id)


@shared_task(name="attribution.make_partitions")
def make_partitions() -> None:
    """Partitions of the next days, so that no sender waits for one at midnight."""
    today = timezone.now()
    partitions.ensure_days(partitions.days_between(today, today + timedelta(days=3)))


@shared_task(name="attribution.model_due_hours")
def model_due_hours() -> None:
    for organization_id, hour in modelled.due(timezone.now()):
        model_hour.delay(organization_id, hour.isoformat())


@shared_task(name="attribution.model_hour")
def model_hour(organization_id: int, hour: str) -> None:
    modelled.model_hour(organization_id, datetime.fromisoformat(hour))


@shared_task(name="attribution.forget_old_metrics")
def forget_old_metrics() -> None:
    token_streams.forget_old()


@shared_task(name="attribution.delete_past_content")
def delete_past_content(organization_id: int) -> None:
    if content.delete_past(organization_id):
        delete_past_content.delay(organization_id)


@shared_task(name="attribution.delete_past_contents")
def delete_past_contents() -> None:
    # Of all of them: where it was turned off, something may be left of it.
    for organization_id in Organization.objects.order_by("id").values_list("id", flat=True):
        delete_past_content.delay(organization_id)
    content.drop_old_days()
