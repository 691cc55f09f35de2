from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils.text import slugify

from costwatch.accounts.management.organizations import organization_named, team_named
from costwatch.accounts.models import Team


class Command(BaseCommand):
    help = "Creates a team and prints its slug, alone, on stdout: what telemetry says in costwatch.team."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name")
        parser.add_argument("--organization", required=True)
        parser.add_argument(
            "--parent", default="", help="slug of the department that it belongs to"
        )
        parser.add_argument("--cost-centre", default="")

    def handle(self, *args: Any, **options: Any) -> None:
        organization = organization_named(options["organization"])
        slug = slugify(options["name"])
        if not slug:
            raise CommandError(f"name {options['name']!r}: expected letters or digits in it")
        if Team.objects.filter(organization=organization, slug=slug).exists():
            raise CommandError(f"there is a team {slug!r} in {organization.name!r} already")
        parent = team_named(organization, options["parent"]) if options["parent"] else None
        team = Team.objects.create(
            organization=organization,
            name=options["name"],
            slug=slug,
            parent=parent,
            cost_centre=options["cost_centre"],
        )
        self.stdout.write(team.slug)
