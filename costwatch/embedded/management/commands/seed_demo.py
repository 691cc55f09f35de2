from decimal import Decimal
from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from costwatch.accounts.models import IngestKey, Membership, Organization, Team, User
from costwatch.attribution import ingest
from costwatch.attribution.rollups import add_batches
from costwatch.budgets.models import Budget
from costwatch.embedded import generated
from costwatch.pricing.rates import refresh
from costwatch.recommendations.compute import recompute

NAME = "Generated example (made-up data)"


class Command(BaseCommand):
    help = (
        "Writes a generated month into an organization whose name says that it is generated, for pages that "
        "need a month to be worth looking at."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--days", type=int, default=45)
        parser.add_argument("--calls-per-day", type=int, default=800)
        parser.add_argument("--seed", type=int, default=1)
        parser.add_argument("--member", default="admin@localhost", help="who may look at it")

    def handle(self, *args: Any, **options: Any) -> None:
        if Organization.objects.filter(name=NAME).exists():
            raise CommandError(f"there is an organization {NAME!r} already")
        if not 1 <= options["days"] <= 366:
            raise CommandError(f"--days {options['days']}: expected 1 to 366")
        organization = Organization.objects.create(name=NAME)
        _admit(organization, options["member"])
        _people_it(organization)
        key, _ = IngestKey.issue(organization=organization, name="generated")
        today = timezone.now().date()
        calls = 0
        for body in generated.bodies(
            today, options["days"], options["calls_per_day"], options["seed"]
        ):
            ingest.take(key, body)
            calls += len(body.observations)
        add_batches(organization.pk)
        refresh(organization.pk)
        recompute(organization.pk, timezone.now())
        self.stdout.write(f"{calls} generated calls of {options['days']} days are in {NAME!r}")


def _admit(organization: Organization, email: str) -> None:
    user = User.objects.filter(email=email.lower()).first()
    if user is not None:
        Membership.objects.create(organization=organization, user=user, role=Membership.Role.OWNER)


def _people_it(organization: Organization) -> None:
    for department, teams in generated.TEAMS.items():
        parent = Team.objects.create(organization=organization, name=department)
        for name, cost_centre in teams.items():
            Team.objects.create(
                organization=organization, name=name, parent=parent, cost_centre=cost_centre
            )
    call_command(
        "set_price",
        *("--organization", organization.name, "--device", generated.GPU),
        *("--per-hour", "0.80", "--from", "2025-01-01"),
        verbosity=0,
    )
    for name, amount in (("Support", "45"), ("Web Search", "60")):
        Budget.objects.create(
            organization=organization,
            team=Team.objects.get(organization=organization, name=name),
            name=f"{name}, monthly",
            amount=Decimal(amount),
            currency=organization.currency,
        )
