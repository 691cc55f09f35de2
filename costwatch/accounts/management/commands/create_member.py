import os
import secrets
from typing import Any

from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.core.validators import validate_email
from django.db import transaction

from costwatch.accounts.management.organizations import organization_named
from costwatch.accounts.models import Membership, User


class Command(BaseCommand):
    help = (
        "Makes a person a member of an organization. A new person's password is taken from COSTWATCH_PASSWORD, "
        "or made and printed, alone, on stdout."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--organization", required=True)
        parser.add_argument("--email", required=True)
        parser.add_argument(
            "--role", choices=Membership.Role.values, default=Membership.Role.MEMBER
        )

    @transaction.atomic
    def handle(self, *args: Any, **options: Any) -> None:
        organization = organization_named(options["organization"])
        email = options["email"].lower()
        user = User.objects.filter(email=email).first() or self._new_user(email)
        _, made = Membership.objects.get_or_create(
            organization=organization, user=user, defaults={"role": options["role"]}
        )
        if not made:
            raise CommandError(f"{email!r} is a member of {organization.name!r} already")

    def _new_user(self, email: str) -> User:
        given = os.environ.get("COSTWATCH_PASSWORD", "")
        password = given or secrets.token_urlsafe(12)
        try:
            validate_email(email)
            validate_password(password)
        except ValidationError as error:
            raise CommandError(" ".join(error.messages)) from error
        if not given:
            self.stdout.write(password)
        return User.objects.create_user(email, password)
