from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from costwatch.accounts.management.organizations import organization_named
from costwatch.pricing.exchange_rates import DayRate, set_rates
from costwatch.pricing.rate_files import day_named, rate_named


class Command(BaseCommand):
    help = (
        "Sets what one unit of a currency is in the organization's, from a UTC day on. "
        "Such as: set_exchange_rate 2026-11-23 USD 0.9217 --organization Acme"
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("date", metavar="DATE")
        parser.add_argument("base", metavar="CURRENCY", help="of prices")
        parser.add_argument("rate", metavar="RATE")
        parser.add_argument("--organization", required=True)

    def handle(self, *args: Any, **options: Any) -> None:
        organization = organization_named(options["organization"])
        try:
            day, amount = day_named(options["date"]), rate_named(options["rate"])
            rate = DayRate(day, options["base"], amount)
            set_rates(organization, [rate], source="command line")
        except ValueError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"{day}: 1 {rate.base} = {amount:f} {organization.currency}")
