from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from costwatch.accounts.management.organizations import organization_named
from costwatch.pricing.exchange_rates import set_rates
from costwatch.pricing.rate_files import BadFile, rates_in


class Command(BaseCommand):
    help = (
        "Loads exchange rates from a CSV file with the columns date,base,quote,rate: what one unit of base is in quote, "
        "the organization's currency. All of them, or none where a line is wrong."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", metavar="FILE", type=Path)
        parser.add_argument("--organization", required=True)

    def handle(self, *args: Any, **options: Any) -> None:
        organization = organization_named(options["organization"])
        path: Path = options["file"]
        try:
            rates = rates_in(organization, path.read_text("utf-8"))
            entered = set_rates(organization, rates, source=path.name)
        except BadFile as error:
            raise CommandError("\n".join(error.said)) from error
        except (OSError, ValueError) as error:
            raise CommandError(f"{path}: {error}") from error
        self.stdout.write(str(entered))
