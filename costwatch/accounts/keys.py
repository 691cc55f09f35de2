"""What pages and the API do with ingest keys and tokens alike."""

from typing import Any

from django.utils import timezone

from costwatch.accounts.models import IngestKey, Organization, Secret

MOST_KEYS = 1000  # in force, of an organization


def in_force(organization: Organization) -> int:
    return IngestKey.objects.filter(organization=organization, revoked_at=None).count()


def revoke(secret: Secret) -> bool:
    """From now on nothing is taken with it; what was sent stays. False where it was revoked before."""
    if secret.revoked_at is not None:
        return False
    secret.revoked_at = timezone.now()
    secret.save(update_fields=["revoked_at"])
    return True


def recorded(key: IngestKey) -> dict[str, Any]:
    """For the audit log: plain JSON, without the secret."""
    return {
        "name": key.name,
        "team": key.team.slug if key.team else None,
        "environment": key.environment,
        "requests_per_second": key.requests_per_second,
        "bytes_per_second": key.bytes_per_second,
        "max_body_bytes": key.max_body_bytes,
    }
