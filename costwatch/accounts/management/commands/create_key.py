from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from costwatch.accounts.management.organizations import organization_named, team_named
from costwatch.accounts.models import IngestKey


class Command(BaseCommand):
    help = "Creates an ingest key and prints it, alone, on stdout. It is shown this once."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--organization", required=True)
        parser.add_argument(
            "--team", default="", help="slug of the team that pays for what is untagged"
        )
        parser.add_argument("--environment", default="")
        parser.add_argument("--name", default="command line")

    def handle(self, *args: Any, **options: Any) -> None:
        organization = organization_named(options["organization"])
        team = team_named(organization, options["team"]) if options["team"] else None
        _, secret = IngestKey.issue(
            organization=organization,
            team=team,
            environment=options["environment"],
            name=options["name"],
        )
        self.stdout.write(secret)
