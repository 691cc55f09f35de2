from datetime import UTC, timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from costwatch.accounts.management.organizations import organization_named
from costwatch.domain.money import rounded
from costwatch.reports.days import days_asked
from costwatch.reports.reconcile import Row, reconcile, summed


class Command(BaseCommand):
    help = "Lays what providers billed beside what was metered; prints each difference with its causes."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--organization", required=True)
        parser.add_argument("--from", dest="first", help="a day of UTC; 30 days ago by default")
        parser.add_argument(
            "--to", dest="last", help="a day of UTC, included; yesterday by default"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        organization = organization_named(options["organization"])
        yesterday = timezone.now().astimezone(UTC).date() - timedelta(days=1)
        try:
            first, last = days_asked(
                options["first"] or str(yesterday - timedelta(days=29)),
                options["last"] or str(yesterday),
            )
        except ValueError as error:
            raise CommandError(str(error)) from None
        found = reconcile(organization, first, last)
        for row in [*summed(found.rows, ("provider", "project", "model")), found.total]:
            self.stdout.write(_said(row, found.currency))
        for one in found.unbilled:
            self.stdout.write(
                f"{one.provider}: no bill of {one.days} days, on which "
                f"{rounded(one.metered, 6)} {found.currency} were metered"
            )


def _said(row: Row, currency: str) -> str:
    key = row.key
    name = " ".join(part for part in (key.provider, key.project, key.model) if part) or "all"
    causes = ", ".join(
        f"{cause.value} {rounded(amount, 6)}" for cause, amount in row.causes.items()
    )
    covered = row.coverage_percent
    said = [
        f"{name}: billed {rounded(row.billed, 6)}, metered {rounded(row.metered, 6)} {currency}",
        f"difference {rounded(row.variance, 6)}" + (f" ({causes})" if causes else ""),
        "coverage unknown" if covered is None else f"coverage {rounded(covered, 1)} %",
        *(f"{amount.normalize():f} {name} not compared" for name, amount in row.uncompared.items()),
    ]
    return "; ".join(said)
