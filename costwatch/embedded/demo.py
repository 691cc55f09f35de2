"""The demo organization: four teams in two departments, a price for its device, a budget that it will cross."""

from decimal import Decimal

from django.core.management import call_command
from django.utils import timezone

from costwatch.accounts.models import IngestKey, Organization, Team
from costwatch.budgets.models import Budget
from costwatch.pricing.models import Price

# Department: its teams with cost centres. The slugs are what demo_traffic.py sends.
_TEAMS = {
    "Product": {"Customer Chat": "CC-110", "Research Agent": "CC-120"},
    "Operations": {"Legal Summaries": "CC-210", "Ticket Triage": "CC-220"},
}
# About what a small cloud machine costs; set_price sets it to what one really pays.
_DEVICE_USD_PER_HOUR = "0.10"
_BUDGET_USD = Decimal("0.002")  # crossed within minutes, so that the alert can be seen


def make_demo(organization: Organization, key: str) -> None:
    """Make what is missing of the demo; what is there stays as it is."""
    for department, teams in _TEAMS.items():
        parent, _ = Team.objects.get_or_create(
            organization=organization, name=department, defaults={"cost_centre": ""}
        )
        for name, cost_centre in teams.items():
            Team.objects.get_or_create(
                organization=organization,
                name=name,
                defaults={"parent": parent, "cost_centre": cost_centre},
            )
    register_key(organization, key, "demo applications")
    if not Price.objects.filter(book__organization=organization).exists():
        _set_device_price(organization)
    team = Team.objects.get(organization=organization, name="Customer Chat")
    Budget.objects.get_or_create(
        organization=organization,
        team=team,
        defaults={"name": "Customer Chat, monthly", "amount": _BUDGET_USD, "currency": "USD"},
    )


def _set_device_price(organization: Organization) -> None:
    month = timezone.now().strftime("%Y-%m-01")
    call_command(
        "set_price",
        *("--organization", organization.name, "--device", "cpu"),
        *("--per-hour", _DEVICE_USD_PER_HOUR, "--from", month),
        verbosity=0,
    )


def register_key(organization: Organization, secret: str, name: str) -> None:
    """An ingest key whose secret is known beforehand, since the programs that send with it start first."""
    IngestKey.objects.get_or_create(
        secret_hash=IngestKey.hash_of(secret),
        defaults={
            "organization": organization,
            "name": name,
            "shown_prefix": secret[:10],
        },
    )
