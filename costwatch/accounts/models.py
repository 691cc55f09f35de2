"""Who: organizations, their teams and people, and the secrets that telemetry and the API are reached with."""

from __future__ import annotations

import hashlib
import secrets
from typing import Any, ClassVar

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.contrib.auth.models import PermissionsMixin
from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.text import slugify

MOST_CONTENT_DAYS = 365


class Organization(models.Model):
    """The tenant. Every row belongs to exactly one."""

    name = models.CharField(max_length=200, unique=True)
    time_zone = models.CharField(max_length=64, default="UTC")  # months and days of its budgets
    currency = models.CharField(max_length=3, default="USD")  # of its reports
    created_at = models.DateTimeField(default=timezone.now)
    # For how many days prompts and answers are stored, of calls from this moment on; null: they are not.
    content_retention_days = models.PositiveSmallIntegerField(null=True, blank=True)
    content_since = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(content_retention_days__isnull=True, content_since__isnull=True)
                | Q(
                    content_retention_days__gte=1,
                    content_retention_days__lte=MOST_CONTENT_DAYS,
                    content_since__isnull=False,
                ),
                name="organization_content_days",
            )
        ]

    def __str__(self) -> str:
        return self.name


class UserManager(BaseUserManager["User"]):
    def create_user(self, email: str, password: str | None = None, **fields: Any) -> User:
        user = self.model(email=self.normalize_email(email).lower(), **fields)
        user.set_password(password)
        user.save(using=self._db)
        return user


class User(AbstractBaseUser, PermissionsMixin):
    """A person; belongs to organizations by membership. Logs in with the e-mail address."""

    email = models.EmailField(unique=True)
    name = models.CharField(max_length=200, blank=True)
    is_active = models.BooleanField(default=True)

    objects: ClassVar[UserManager] = UserManager()

    USERNAME_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []

    def __str__(self) -> str:
        return self.email


class Team(models.Model):
    """Who pays. Teams form a tree: a department holds teams."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="teams")
    parent = models.ForeignKey(
        "self", on_delete=models.PROTECT, null=True, blank=True, related_name="children"
    )
    name = models.CharField(max_length=200)
    slug = models.SlugField(max_length=200)  # what telemetry says in costwatch.team
    cost_centre = models.CharField(max_length=64, blank=True)

    class Meta:
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint(fields=["organization", "slug"], name="team_slug_unique"),
        ]

    def __str__(self) -> str:
        return self.name

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self.slug:
            self.slug = slugify(self.name)
        super().save(*args, **kwargs)


class Membership(models.Model):
    """A person's part in an organization."""

    class Role(models.TextChoices):
        OWNER = "owner"  # everything, keys and people included
        FINANCE = "finance"  # budgets, prices and statements
        MEMBER = "member"  # reads

    organization = models.ForeignKey(
        Organization, on_delete=models.CASCADE, related_name="memberships"
    )
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=16, choices=Role.choices, default=Role.MEMBER)
    team = models.ForeignKey(Team, on_delete=models.SET_NULL, null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["organization", "user"], name="membership_unique"),
            models.CheckConstraint(
                condition=Q(role__in=["owner", "finance", "member"]), name="membership_role"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.user} in {self.organization} as {self.role}"

    @property
    def may_change_money(self) -> bool:
        return self.role in {self.Role.OWNER, self.Role.FINANCE}

    def may_read_content(self, payer_id: int | None) -> bool:
        """Whether to see what was asked and answered in a call that this team pays for; None: unattributed.

        Owners are answerable for it, and the team's own people work on it. Finance needs what it cost, and not this.
        """
        is_own = payer_id is not None and payer_id == self.team_id
        return is_own or self.role == self.Role.OWNER


class Secret(models.Model):
    """A bearer secret, stored as its SHA-256: 256 random bits need no slow hash."""

    PREFIX: ClassVar[str]

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE)
    name = models.CharField(max_length=200)
    shown_prefix = models.CharField(max_length=16)  # tells keys apart on a page
    secret_hash = models.BinaryField(max_length=32, unique=True)
    created_at = models.DateTimeField(default=timezone.now)
    last_used_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return f"{self.name} ({self.shown_prefix}…)"

    @staticmethod
    def hash_of(secret: str) -> bytes:
        return hashlib.sha256(secret.encode()).digest()

    @classmethod
    def issue(cls, **fields: Any) -> tuple[Any, str]:
        """A new row and its secret, which is shown now and never again."""
        secret = cls.PREFIX + secrets.token_urlsafe(32)
        row = cls(shown_prefix=secret[:10], secret_hash=cls.hash_of(secret), **fields)
        row.save()
        return row, secret


class IngestKey(Secret):
    """What telemetry is sent with. What it sends without a team is paid by the key's."""

    PREFIX = "cwk_"

    team = models.ForeignKey(Team, on_delete=models.PROTECT, null=True, blank=True)
    environment = models.CharField(max_length=64, blank=True)  # of what names none itself
    # What may be sent with it to one receiver process, and never more than its settings say; null: just that.
    requests_per_second = models.PositiveIntegerField(null=True, blank=True)
    bytes_per_second = models.PositiveIntegerField(null=True, blank=True)  # decompressed
    max_body_bytes = models.PositiveIntegerField(null=True, blank=True)  # as sent or decompressed

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(requests_per_second__isnull=True) | Q(requests_per_second__gt=0),
                name="key_requests_above_zero",
            ),
            models.CheckConstraint(
                condition=Q(bytes_per_second__isnull=True) | Q(bytes_per_second__gt=0),
                name="key_bytes_per_second_above_zero",
            ),
            models.CheckConstraint(
                condition=Q(max_body_bytes__isnull=True) | Q(max_body_bytes__gt=0),
                name="key_bytes_above_zero",
            ),
        ]


class ApiToken(Secret):
    """What the REST API is read with, in the name of a person."""

    PREFIX = "cwt_"

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="api_tokens")


class AuditEvent(models.Model):
    """Who changed what that money depends on. Append-only."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE)
    actor = models.ForeignKey(User, on_delete=models.SET_NULL, null=True)
    at = models.DateTimeField(default=timezone.now)
    action = models.CharField(max_length=64)  # "budget.created", "price.set", …
    target = models.CharField(max_length=200)
    details = models.JSONField(default=dict)

    class Meta:
        indexes = [models.Index(fields=["organization", "-at"], name="audit_by_time")]

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M} {self.action} {self.target}"


class Answer(models.Model):
    """What a write was answered with, by the key that its sender gave: sent again, it is not done again."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, db_index=False)
    user = models.ForeignKey(User, on_delete=models.CASCADE, db_index=False)
    key = models.CharField(max_length=255)
    asked = models.CharField(max_length=64)  # SHA-256 of what was asked
    status = models.PositiveSmallIntegerField()
    body = models.JSONField(null=True)
    at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["organization", "user", "key"], name="answer_unique")
        ]

    def __str__(self) -> str:
        return f"{self.key}: {self.status}"
