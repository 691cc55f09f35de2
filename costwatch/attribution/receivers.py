"""Who pays follows from rules, teams and keys: when one of them changes, it is worked out anew."""

from functools import partial

from django.db import transaction

from costwatch.accounts.models import IngestKey, Team
from costwatch.attribution.assignment import reassign
from costwatch.attribution.models import AssignmentRule


def reassign_after(
    *, instance: Team | AssignmentRule | IngestKey, created: bool = False, **_: object
) -> None:
    """After the change is committed. A key that was just made has no sources yet."""
    if not (created and isinstance(instance, IngestKey)):
        transaction.on_commit(partial(reassign, instance.organization_id))
