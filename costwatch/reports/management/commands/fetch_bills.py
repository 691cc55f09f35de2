from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from costwatch.accounts.management.organizations import organization_named
from costwatch.reports import bill_fetches, bills
from costwatch.reports.bill_models import BillFetch, ProviderAccount


class Command(BaseCommand):
    help = "Fetches the bills of an organization's providers now; exit code 1 if one can't be had."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--organization", required=True)
        parser.add_argument(
            "--days", type=int, help="up to yesterday; as the settings say by default"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        days = options["days"]
        if days is not None and not 1 <= days <= bills.MOST_DAYS:
            raise CommandError(f"--days {days}: expected 1 to {bills.MOST_DAYS}")
        organization = organization_named(options["organization"])
        accounts = ProviderAccount.objects.filter(organization=organization, active=True)
        if not accounts:
            raise CommandError(
                f"no provider is connected to {organization}; connect one with: "
                f"costwatch connect_provider openai --organization '{organization}' --key-variable OPENAI_ADMIN_KEY"
            )
        fetched = [self._fetch(account, days) for account in accounts]
        if not all(fetch.state == BillFetch.State.DONE for fetch in fetched):
            raise SystemExit(1)

    def _fetch(self, account: ProviderAccount, days: int | None) -> BillFetch:
        now = timezone.now()
        fetch = bill_fetches.again(account, now, days=days)
        bill_fetches.fetch(fetch.pk, now)
        fetch.refresh_from_db()
        what = f"{account}, {fetch.first_day} to {fetch.last_day}"
        if fetch.state == BillFetch.State.DONE:
            self.stdout.write(f"{what}: {fetch.lines} lines")
        else:
            self.stderr.write(f"{what}: {fetch.last_error}")
        return fetch
