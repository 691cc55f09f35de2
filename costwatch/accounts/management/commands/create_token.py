from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from costwatch.accounts.management.organizations import organization_named
from costwatch.accounts.models import ApiToken, Membership


class Command(BaseCommand):
    help = (
        "Creates an API token for a member and prints it, alone, on stdout. It is shown this once."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--organization", required=True)
        parser.add_argument("--email", required=True, help="of a member of the organization")
        parser.add_argument("--name", default="command line")

    def handle(self, *args: Any, **options: Any) -> None:
        organization = organization_named(options["organization"])
        email = options["email"].lower()
        try:
            member = Membership.objects.get(organization=organization, user__email=email)
        except Membership.DoesNotExist:
            raise CommandError(f"{email!r} is not a member of {organization.name!r}") from None
        _, secret = ApiToken.issue(
            organization=organization, user=member.user, name=options["name"]
        )
        self.stdout.write(secret)
