"""Projects that bills name, and the ingest keys that send what is billed for them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from django.db import transaction
from django.db.models import Sum

from costwatch.accounts.models import AuditEvent, IngestKey, Organization, User
from costwatch.pricing.matching import company_of
from costwatch.reports.bill_models import ProviderBillLine, ProviderProject


@dataclass(frozen=True, slots=True)
class BilledProject:
    """What was billed for a project, and whose telemetry it is compared with; without keys, with all that no project has."""

    provider: str
    project: str
    billed: tuple[tuple[str, Decimal], ...]  # by currency
    keys: tuple[IngestKey, ...]


def billed_projects(organization: Organization, first: date, last: date) -> list[BilledProject]:
    """Of the days of UTC from first to last, both included, and those that a key is linked to; by provider and name."""
    amounts: dict[tuple[str, str], dict[str, Decimal]] = defaultdict(dict)
    lines = ProviderBillLine.objects.filter(
        bill__organization=organization, bill__day__gte=first, bill__day__lte=last
    ).exclude(project="")
    for provider, project, currency, amount in lines.values_list(
        "bill__provider", "project", "currency"
    ).annotate(amount=Sum("amount")):
        billed = amounts[company_of(provider), project]
        billed[currency] = billed.get(currency, Decimal(0)) + amount
    keys: dict[tuple[str, str], list[IngestKey]] = defaultdict(list)
    links = ProviderProject.objects.filter(organization=organization).select_related("key")
    for link in links:
        keys[company_of(link.provider), link.project].append(link.key)
    return [
        BilledProject(*place, tuple(sorted(amounts[place].items())), tuple(keys[place]))
        for place in sorted({*amounts, *keys})
    ]


@transaction.atomic
def link(
    organization: Organization,
    provider: str,
    project: str,
    key: IngestKey,
    actor: User | None = None,
) -> ProviderProject | None:
    """What a key sends of a provider is compared with this project's bill; with no project, with what none has."""
    assert key.organization_id == organization.pk, "a key of another organization"
    company = company_of(provider)
    # Of two that link a key at once, the second waits for the first.
    IngestKey.objects.select_for_update().get(pk=key.pk)
    links = ProviderProject.objects.filter(organization=organization, provider=company, key=key)
    before = links.first()
    links.delete()
    made = None
    if project:
        made = ProviderProject.objects.create(
            organization=organization, provider=company, project=project, key=key
        )
    AuditEvent.objects.create(
        organization=organization,
        actor=actor,
        action="project.linked",
        target=f"{company} {key}"[:200],
        details={"before": before.project if before else "", "project": project},
    )
    return made
