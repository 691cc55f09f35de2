"""What follows from what: who pays from rules, teams and keys; modelled device time from what came of an hour."""

from datetime import datetime
from functools import partial

from django.db import transaction

from costwatch.accounts.models import IngestKey, Team
from costwatch.attribution import modelled
from costwatch.attribution.assignment import reassign
from costwatch.attribution.models import AssignmentRule


def reassign_after(
    *, instance: Team | AssignmentRule | IngestKey, created: bool = False, **_: object
) -> None:
    """After the change is committed. A key that was just made has no sources yet."""
    if not (created and isinstance(instance, IngestKey)):
        transaction.on_commit(partial(reassign, instance.organization_id))


def mark_hours_to_model(
    *, organization_id: int, first_hour: datetime, last_hour: datetime, **_: object
) -> None:
    modelled.mark(organization_id, first_hour, last_hour)
