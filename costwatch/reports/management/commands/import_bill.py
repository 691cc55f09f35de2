from contextlib import ExitStack
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from collectors.providers.files import BadFile
from costwatch.accounts.management.organizations import organization_named
from costwatch.reports import bills


class Command(BaseCommand):
    help = (
        "Takes a cloud's bill from a FOCUS file or AWS' Cost and Usage Report (CSV, gzipped or not). The parts of one "
        "bill belong into one call: a day that comes again takes the place of what was there."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("files", nargs="+", type=Path)
        parser.add_argument("--organization", required=True)

    def handle(self, *args: Any, **options: Any) -> None:
        organization = organization_named(options["organization"])
        paths: list[Path] = options["files"]
        try:
            with ExitStack() as opened:
                files = [opened.enter_context(path.open("rb")) for path in paths]
                taken = bills.take_files(
                    organization, files, source=paths[0].name, now=timezone.now()
                )
        except OSError as error:
            raise CommandError(f"{error.filename}: {error.strerror}") from None
        except BadFile as error:
            raise CommandError("\n".join([f"{paths[0]}: {error}", *error.rows])) from None
        except bills.TooLong as error:
            raise CommandError(str(error)) from None
        self._say(taken)

    def _say(self, taken: bills.Taken) -> None:
        for bill in taken.bills:
            self.stdout.write(
                f"{bill.provider} {bill.account}: {bill.lines} lines of {bill.days} days, "
                f"{bill.replaced} of them anew"
            )
        for service, rows in taken.left_out:
            self.stdout.write(f"left out, runs no models: {service or 'no service'}, {rows} rows")
        if not taken.bills:
            self.stdout.write(f"none of {taken.rows} rows is of a service that runs models")
