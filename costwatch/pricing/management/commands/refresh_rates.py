from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from costwatch.accounts.management.organizations import organization_named
from costwatch.pricing.rates import refresh, refresh_all


class Command(BaseCommand):
    help = "Works out anew which price holds for what was used. Needed only after prices were changed by hand."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--organization", default="", help="only this one")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["organization"]:
            refresh(organization_named(options["organization"]).pk)
        else:
            refresh_all()
