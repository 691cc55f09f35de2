import re
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from costwatch.accounts.management.organizations import organization_named
from costwatch.reports.bill_fetches import PROVIDERS
from costwatch.reports.bill_models import ProviderAccount


class Command(BaseCommand):
    help = (
        "Says which environment variable of the workers holds the admin key of a provider's account; its bills are "
        "fetched daily from then on. The key itself is not stored. Done again, the variable is changed."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("provider", choices=sorted(PROVIDERS))
        parser.add_argument("--organization", required=True)
        parser.add_argument("--name", default="main", help="tells several of a provider apart")
        parser.add_argument(
            "--key-variable",
            required=True,
            help="such as OPENAI_ADMIN_KEY; or OPENAI_ADMIN_KEY_FILE may name a file with the key",
        )
        parser.add_argument("--stop", action="store_true", help="fetch no more; what is here stays")

    def handle(self, *args: Any, **options: Any) -> None:
        variable = options["key_variable"]
        if not re.fullmatch(r"[A-Z][A-Z0-9_]{0,99}", variable):
            raise CommandError(
                f"--key-variable {variable[:8]!r}…: expected the name of a variable, such as OPENAI_ADMIN_KEY, "
                "and not the key"
            )
        account, made = ProviderAccount.objects.update_or_create(
            organization=organization_named(options["organization"]),
            provider=options["provider"],
            name=options["name"],
            defaults={"key_variable": variable, "active": not options["stop"]},
        )
        done = "stopped" if options["stop"] else "connected" if made else "changed"
        self.stdout.write(f"{done}: {account}, with the key in {variable}")
