"""What providers bill, beside which metered cost is laid.

ProviderAccount   a provider's account that bills are fetched from
BillFetch         one attempt after the other to fetch its bills of some days: the delivery log
ProviderBill      one day's bill of one account: fetched or uploaded again, it takes the place of what was there
ProviderBillLine  what it asks for one thing
ProviderProject   which ingest key sends what a provider's project is billed for
"""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from costwatch.accounts.models import IngestKey, Organization
from costwatch.attribution.models import TOKEN_METERS

AMOUNT_DIGITS, AMOUNT_PLACES = 40, 20


class ProviderAccount(models.Model):
    """Its key is in the environment of the workers; here is only the name of the variable that holds it.

    Accounts are made by whoever runs the service, on the command line: a variable's name is a way to every secret of
    the machine.
    """

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, db_index=False)
    provider = models.CharField(max_length=64)
    name = models.CharField(max_length=100)  # tells several of a provider apart
    key_variable = models.CharField(max_length=100)
    active = models.BooleanField(default=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["provider", "name"]
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "provider", "name"], name="provideraccount_unique"
            )
        ]

    def __str__(self) -> str:
        return f"{self.provider} ({self.name})"


class BillFetch(models.Model):
    """Pending is tried again at next_attempt_at; done or failed is the end. At most one of an account is planned a day."""

    class State(models.TextChoices):
        PENDING = "pending"
        DONE = "done"
        FAILED = "failed"

    account = models.ForeignKey(ProviderAccount, on_delete=models.CASCADE, related_name="fetches")
    planned_for = models.DateField()  # the day of UTC on which it is to happen
    first_day = models.DateField()
    last_day = models.DateField()  # included
    state = models.CharField(max_length=8, choices=State.choices, default=State.PENDING)
    attempts = models.PositiveIntegerField(default=0)
    next_attempt_at = models.DateTimeField(default=timezone.now)
    ended_at = models.DateTimeField(null=True)
    lines = models.PositiveIntegerField(default=0)
    last_error = models.TextField(blank=True)

    class Meta:
        ordering = ["-planned_for", "-id"]
        indexes = [
            models.Index(
                fields=["next_attempt_at"], condition=Q(state="pending"), name="billfetch_due"
            )
        ]
        constraints = [
            models.UniqueConstraint(fields=["account", "planned_for"], name="billfetch_once_a_day"),
            models.CheckConstraint(
                condition=Q(first_day__lte=F("last_day")), name="billfetch_days"
            ),
            models.CheckConstraint(
                condition=Q(state="pending", ended_at=None)
                | Q(state__in=["done", "failed"], ended_at__isnull=False),
                name="billfetch_state",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.account}, {self.first_day} to {self.last_day}: {self.state}"


class ProviderBill(models.Model):
    """One day of UTC. A day without lines is billed, too: nothing was asked for it."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, db_index=False)
    provider = models.CharField(max_length=64)  # as metering calls it
    account = models.CharField(max_length=300, blank=True)  # the billing account
    day = models.DateField()
    source = models.CharField(max_length=300)  # "OpenAI's API", "aws-2026-10.csv.gz"
    fetched_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "provider", "account", "day"], name="providerbill_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.provider}, {self.day}"


class ProviderBillLine(models.Model):
    """As collectors.providers.lines.BillLine says."""

    bill = models.ForeignKey(
        ProviderBill, on_delete=models.CASCADE, related_name="lines", db_index=False
    )
    project = models.CharField(max_length=300, blank=True)
    text = models.CharField(max_length=300, blank=True)
    model = models.CharField(max_length=300, blank=True)
    meter = models.CharField(max_length=32, blank=True)
    service_tier = models.CharField(max_length=100, blank=True)
    quantity = models.DecimalField(max_digits=38, decimal_places=0, null=True)  # tokens
    amount = models.DecimalField(max_digits=AMOUNT_DIGITS, decimal_places=AMOUNT_PLACES)
    places = models.PositiveSmallIntegerField()  # that the bill itself shows of the amount
    currency = models.CharField(max_length=3)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["bill", "project", "text", "model", "meter", "service_tier", "currency"],
                name="providerbillline_once",
            ),
            models.CheckConstraint(
                condition=Q(meter__in=["", *TOKEN_METERS]), name="providerbillline_meter"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.text}: {self.amount.normalize():f} {self.currency}"


class ProviderProject(models.Model):
    """What a key sends of a provider is what the provider bills to this project. A key is of one project at most."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, db_index=False)
    provider = models.CharField(max_length=64)
    project = models.CharField(max_length=300)
    key = models.ForeignKey(IngestKey, on_delete=models.CASCADE)

    class Meta:
        ordering = ["provider", "project", "key_id"]
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "provider", "key"], name="providerproject_of_a_key"
            )
        ]

    def __str__(self) -> str:
        return f"{self.provider} {self.project}: {self.key}"
