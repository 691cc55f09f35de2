import json
import os
from pathlib import Path
from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser

from costwatch.accounts.models import Membership, Organization, User
from costwatch.embedded.demo import make_demo, register_key
from costwatch.embedded.up import BARE_ORGANIZATION, DEMO_ORGANIZATION, EMAIL


class Command(BaseCommand):
    help = (
        "What `costwatch up` does to the database before the rest starts: tables, broker, price "
        "catalogue, a login and the runtime's key. Safe to run again."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--demo", action="store_true")

    def handle(self, *args: Any, **options: Any) -> None:
        file = os.environ.get("COSTWATCH_EMBEDDED_SECRETS")
        if file is None:
            raise CommandError("this is a part of `costwatch up`, which says where its secrets are")
        secrets = json.loads(Path(file).read_text())
        call_command("migrate", verbosity=0)
        call_command("install_broker", verbosity=0)
        call_command("import_catalogue", verbosity=0)
        name = DEMO_ORGANIZATION if options["demo"] else BARE_ORGANIZATION
        organization, _ = Organization.objects.get_or_create(name=name)
        _login(organization, secrets["password"])
        register_key(organization, secrets["runtime_key"], "bundled runtime")
        if options["demo"]:
            make_demo(organization, secrets["demo_key"])


def _login(organization: Organization, password: str) -> None:
    user = User.objects.filter(email=EMAIL).first() or User.objects.create_user(EMAIL, password)
    Membership.objects.get_or_create(
        organization=organization, user=user, defaults={"role": Membership.Role.OWNER}
    )
