"""All kinds over an organization's usage, written down so that people can act on them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db import connection, transaction

from costwatch.accounts.models import Organization
from costwatch.domain import money
from costwatch.recommendations.finding import Finding, Kind
from costwatch.recommendations.kinds import KINDS
from costwatch.recommendations.models import Recommendation
from costwatch.recommendations.usage import first_hour
from costwatch.recommendations.window import Window


@transaction.atomic
def recompute(organization_id: int, now: datetime) -> int:
    """Bring an organization's recommendations to what its usage says now; returns how many there are.

    Safe to run twice. What is no longer found goes, unless somebody dismissed it; what was dismissed stays so.
    """
    _lock(organization_id)
    organization = Organization.objects.get(pk=organization_id)
    first = first_hour(organization)
    if first is None:
        return 0
    window = Window.until(now, first)
    found = [
        _keep(organization, kind, finding, window, now)
        for kind in KINDS
        for finding in kind.findings(organization, window)
    ]
    gone = Recommendation.objects.filter(
        organization=organization, status=Recommendation.Status.OPEN
    ).exclude(pk__in=found)
    gone.delete()
    return len(found)


def _keep(
    organization: Organization, kind: Kind, finding: Finding, window: Window, now: datetime
) -> int:
    row, _ = Recommendation.objects.update_or_create(
        organization=organization,
        kind=kind.name,
        **finding.scope,
        defaults={
            "layer": kind.layer,
            "title": finding.title[:300],
            "advice": finding.advice,
            "verdict": finding.verdict,
            "evidence": finding.evidence | _about(finding, window),
            "saving_low": money.rounded(finding.saving.low, 20),
            "saving_high": money.rounded(finding.saving.high, 20),
            "currency": organization.currency,
            "latency_effect": finding.latency_effect,
            "quality_state": finding.quality_state,
            "effort": finding.effort,
            "reversible": finding.reversible,
            "computed_at": now,
        },
    )
    return row.pk


def _about(finding: Finding, window: Window) -> dict[str, Any]:
    """What every estimate rests on."""
    return {
        "window_start": window.period.start.isoformat(),
        "window_end": window.period.end.isoformat(),
        "window_hours": f"{window.hours:.1f}",
        "saw_whole_weeks": window.saw_whole_weeks,
        "calls_per_month": finding.calls_per_month,
        "pays_from_calls_per_month": finding.pays_from_calls,
        "pays_from_saving_per_month": f"{finding.pays_from:f}",
    }


def _lock(organization_id: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_advisory_xact_lock(hashtext('recommendations'), %s)", [organization_id]
        )
