from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from costwatch.accounts.models import Organization


class Command(BaseCommand):
    help = "Creates an organization and prints its id, alone, on stdout."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name")
        parser.add_argument(
            "--time-zone", default="UTC", help="of its months, such as Europe/Berlin"
        )
        parser.add_argument("--currency", default="USD")

    def handle(self, *args: Any, **options: Any) -> None:
        name = options["name"]
        if Organization.objects.filter(name=name).exists():
            raise CommandError(f"there is an organization {name!r} already")
        organization = Organization.objects.create(
            name=name, time_zone=options["time_zone"], currency=options["currency"]
        )
        self.stdout.write(str(organization.pk))
