"""Hours of one's own devices, as devices tell them."""

from __future__ import annotations

from datetime import datetime

from costwatch.accounts.models import Organization
from costwatch.attribution.models import CapacityHour
from costwatch.domain.pricing import NS_PER_HOUR
from tests.pricing.usage import HOUR


def told(
    organization: Organization,
    hour: datetime = HOUR,
    *,
    attributed_ns: int = 0,
    unattributed_ns: int = 0,
    device_id: str = "gpu-0",
    device_type: str = "H100",
) -> None:
    """A whole hour of a device; what it was not busy, it was idle."""
    CapacityHour.objects.create(
        organization=organization,
        hour=hour,
        device_id=device_id,
        device_type=device_type,
        told_attributed_ns=attributed_ns,
        told_unattributed_ns=unattributed_ns,
        told_idle_ns=NS_PER_HOUR - attributed_ns - unattributed_ns,
    )
