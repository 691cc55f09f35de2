"""What was used, and by whom.

    Source, Offering      the few distinct senders and the few distinct things that have a price
    AssignmentRule        which team pays for which sources, and SourceTeam, what follows from the rules
    Profile, Span         what was seen: observations of calls, and the links between spans (partitioned by day)
    Content               what was asked and answered, where the organization stores it (partitioned by day)
    Batch, Entry          the ledger: append-only, signed, partitioned by day
    hour_models.py        rollups: an hour's sums, which pages, API and budgets read
    token_models.py       what metrics say where no spans are sent

Span and Entry are written by ingest.py with COPY, the rollups by rollups.py in SQL; everybody reads them through
queries.py and calls.py.
"""

from __future__ import annotations

from collections.abc import Iterable

from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from costwatch.accounts.models import IngestKey, Organization, Team

# Django looks for all of them here.
from costwatch.attribution.hour_models import CapacityHour as CapacityHour
from costwatch.attribution.hour_models import DeviceStream as DeviceStream
from costwatch.attribution.hour_models import HourToModel as HourToModel
from costwatch.attribution.hour_models import IngestHour as IngestHour
from costwatch.attribution.hour_models import LagHour as LagHour
from costwatch.attribution.hour_models import LatencyHour as LatencyHour
from costwatch.attribution.hour_models import UsageHour as UsageHour
from costwatch.attribution.hour_models import WholeNumberField as WholeNumberField  # of migrations
from costwatch.attribution.token_models import MetricUse as MetricUse
from costwatch.attribution.token_models import SpannedHour as SpannedHour
from costwatch.attribution.token_models import TokenHour as TokenHour
from costwatch.attribution.token_models import TokenStream as TokenStream

# What a call is counted in. The names are columns of Entry and UsageHour; device time and energy are integers of
# their smallest unit, so that sums are exact.
TOKEN_METERS = (
    "input_tokens",
    "cache_read_input_tokens",
    "cache_write_input_tokens",
    "output_tokens",
)

SOURCE_TAGS = ("service_name", "environment", "team_tag", "feature", "customer")


def called(tags: Iterable[str]) -> str:
    """What a source is called, by what it says in SOURCE_TAGS."""
    return " / ".join(tag for tag in tags if tag) or "untagged"


class Source(models.Model):
    """One distinct combination of the stable attributes that telemetry carries. Few, unlike calls."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE)
    key = models.ForeignKey(IngestKey, on_delete=models.PROTECT)
    service_name = models.CharField(max_length=255)
    environment = models.CharField(max_length=255)
    team_tag = models.CharField(max_length=255)  # raw, as sent; which team pays is SourceTeam
    feature = models.CharField(max_length=255)
    customer = models.CharField(max_length=255)
    first_seen_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=[
                    "organization",
                    "key",
                    "service_name",
                    "environment",
                    "team_tag",
                    "feature",
                    "customer",
                ],
                name="source_unique",
            )
        ]

    def __str__(self) -> str:
        return called(getattr(self, tag) for tag in SOURCE_TAGS)


class Offering(models.Model):
    """What was bought or run: a SKU without its meter. Offering × meter is what has a price."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE)
    provider = models.CharField(max_length=255)
    request_model = models.CharField(max_length=255)
    response_model = models.CharField(max_length=255)
    service_tier = models.CharField(max_length=64)
    device_type = models.CharField(max_length=255)  # empty for tokens bought from a provider
    allocation_method = models.CharField(max_length=16)  # measured, shared, modelled, or empty

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=[
                    "organization",
                    "provider",
                    "request_model",
                    "response_model",
                    "service_tier",
                    "device_type",
                    "allocation_method",
                ],
                name="offering_unique",
            )
        ]

    def __str__(self) -> str:
        return f"{self.provider or 'unknown'}/{self.model or 'unknown'}"

    @property
    def model(self) -> str:
        """The model that answered, as far as anybody said."""
        return self.response_model or self.request_model


class AssignmentRule(models.Model):
    """Says which team pays for the sources that match it, from an hour on, until an hour.

    Patterns are case-insensitive with * for anything; "" (two quotes) matches what is not said, and an empty one
    everything. First match by priority (the smallest number) wins.
    """

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE)
    team = models.ForeignKey(Team, on_delete=models.PROTECT)
    priority = models.IntegerField(default=100)
    service_name = models.CharField(max_length=255, blank=True)
    environment = models.CharField(max_length=255, blank=True)
    team_tag = models.CharField(max_length=255, blank=True)
    feature = models.CharField(max_length=255, blank=True)
    customer = models.CharField(max_length=255, blank=True)
    key = models.ForeignKey(IngestKey, on_delete=models.PROTECT, null=True, blank=True)
    valid_from = models.DateTimeField(null=True, blank=True)  # a whole hour; null: always was
    valid_until = models.DateTimeField(null=True, blank=True)  # excluded; null: from then on

    class Meta:
        ordering = ["priority", "id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(valid_until__isnull=True)
                | Q(valid_from__isnull=True)
                | Q(valid_until__gt=F("valid_from")),
                name="rule_period_not_empty",
            )
        ]

    def __str__(self) -> str:
        return f"{self.priority}: {self.team}"


class SourceTeam(models.Model):
    """Which team pays for a source in which hours: what follows from the rules, rebuilt when they change.

    The periods of a source do not overlap and cover all time. team null: unattributed.
    """

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE)
    source = models.ForeignKey(Source, on_delete=models.CASCADE, related_name="teams")
    team = models.ForeignKey(Team, on_delete=models.PROTECT, null=True)
    rule = models.ForeignKey(AssignmentRule, on_delete=models.SET_NULL, null=True)
    reason = models.CharField(max_length=64)  # "rule", "team tag", "key's team", "no rule matches"
    valid_from = models.DateTimeField(null=True)
    valid_until = models.DateTimeField(null=True)

    class Meta:
        indexes = [models.Index(fields=["organization", "source"], name="sourceteam_by_source")]
        constraints = [
            models.UniqueConstraint(
                fields=["source", "valid_from"],
                nulls_distinct=False,
                name="sourceteam_one_beginning",
            )
        ]

    def __str__(self) -> str:
        return f"{self.source}: {self.team or 'unattributed'} ({self.reason})"


class Profile(models.Model):
    """What many observations have in common: all that one says but numbers, ids and people. Few, unlike calls."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE)
    key = models.ForeignKey(IngestKey, on_delete=models.PROTECT)
    digest = models.UUIDField()  # of facts
    facts = models.JSONField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["organization", "key", "digest"], name="profile_unique")
        ]

    def __str__(self) -> str:
        return f"{self.facts.get('dialect')} {self.facts.get('request_model')}"


class Span(models.Model):
    """One span as it was seen. With a profile it is an observation of a call; without, only a link to its parent.

    Rows are facts and stay; `wraps` alone turns true, once, when a counted span is found below it. Fixed widths come
    first: there are as many rows as spans.

    Here the organization does not come first in the keys: what is looked for are spans by their ids, and a planner
    that knows nothing yet of a new day's partition takes "one organization, one day" for a handful of rows.
    """

    pk = models.CompositePrimaryKey("span_key", "started_at", "organization")
    organization = models.ForeignKey(
        Organization, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False
    )
    started_at = models.DateTimeField()  # to the microsecond
    profile = models.ForeignKey(
        Profile, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False, null=True
    )
    duration_ns = models.BigIntegerField(null=True)
    input_tokens = models.BigIntegerField(null=True)
    cache_read_input_tokens = models.BigIntegerField(null=True)
    cache_write_input_tokens = models.BigIntegerField(null=True)
    output_tokens = models.BigIntegerField(null=True)
    reasoning_output_tokens = models.BigIntegerField(null=True)
    time_to_first_token_ns = models.BigIntegerField(null=True)
    time_per_output_token_ns = models.BigIntegerField(null=True)
    queue_ns = models.BigIntegerField(null=True)
    prefill_ns = models.BigIntegerField(null=True)
    decode_ns = models.BigIntegerField(null=True)
    device_ns = models.BigIntegerField(null=True)
    device_ns_marginal = models.BigIntegerField(null=True)
    device_ns_alone = models.BigIntegerField(null=True)
    energy_uj = models.BigIntegerField(null=True)
    prefix_repeated_tokens = models.BigIntegerField(null=True)
    prompt_bytes = models.BigIntegerField(null=True)
    span_key = models.UUIDField()  # from (trace id, span id)
    parent_key = models.UUIDField(null=True)
    call_id = models.UUIDField(
        null=True
    )  # the group of identity.py: a call, or several that share its id
    start_rest_ns = models.SmallIntegerField(default=0)  # of start_unix_ns, below the microsecond
    wraps = models.BooleanField(default=False)
    trace_id = models.BinaryField(max_length=16, null=True)
    span_id = models.BinaryField(max_length=8, null=True)
    response_id = models.TextField(null=True)
    end_user = models.TextField(null=True)
    session = models.TextField(null=True)
    request_hash = models.TextField(null=True)  # keyed, as the next: see collectors/fingerprints.py
    prefix_hashes = models.TextField(null=True)
    tags = models.JSONField(null=True)  # a link's; and what an observation's profile calls OTHER

    class Meta:
        indexes = [
            models.Index(
                fields=["call_id"],
                condition=Q(call_id__isnull=False),
                name="span_by_call",
            ),
            models.Index(
                fields=["parent_key"],
                condition=Q(parent_key__isnull=False),
                name="span_by_parent",
            ),
            # Of runtimes that say phases and no device time: modelled.py reads an hour of them.
            models.Index(
                fields=["organization", "started_at"],
                condition=Q(decode_ns__isnull=False, device_ns__isnull=True),
                name="span_by_phases",
            ),
            # Of few organizations; repetition.py reads the latest of them, in order.
            models.Index(
                fields=["organization", "started_at"],
                condition=Q(request_hash__isnull=False),
                name="span_by_asking",
            ),
        ]

    def __str__(self) -> str:
        return str(self.span_key)


class Content(models.Model):
    """What was asked and answered in a span about a call, of an organization that stores it (content.py).

    Postgres compresses parts, and keeps them beside the table where they are long.
    """

    pk = models.CompositePrimaryKey("organization", "started_at", "span_key")
    organization = models.ForeignKey(
        Organization, on_delete=models.CASCADE, db_constraint=False, db_index=False
    )
    started_at = models.DateTimeField()  # as the span's
    span_key = models.UUIDField()  # as the span's
    parts = models.JSONField()  # [by, text, left_out_bytes] each

    def __str__(self) -> str:
        return str(self.span_key)


class Batch(models.Model):
    """The ledger entries of one body of telemetry. Added to the rollups exactly once, when added_at is set."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE)
    key = models.ForeignKey(IngestKey, on_delete=models.PROTECT, db_index=False)
    received_at = models.DateTimeField(default=timezone.now)
    entries = models.IntegerField()
    first_started_at = models.DateTimeField()
    last_started_at = models.DateTimeField()
    added_at = models.DateTimeField(null=True)
    arrival_ms = models.BigIntegerField(null=True)  # how late it was; null: with no new call
    sums = models.JSONField(
        null=True
    )  # what its entries add to each hour (rollups.py); gone once added

    class Meta:
        indexes = [
            models.Index(
                fields=["organization", "id"],
                condition=Q(added_at__isnull=True),
                name="batch_not_added",
            ),
        ]

    def __str__(self) -> str:
        return f"batch {self.pk}: {self.entries} entries"


class Entry(models.Model):
    """A ledger row: what one call used, signed. Append-only; what was wrong is reversed by a second row.

    Every quantity carries the row's sign. Null is unknown, which is not zero. The row in force of a call is the
    positive one whose revision has no negative twin.
    """

    # Beginning first: rows of now lie together, and pages that list calls read the same index.
    pk = models.CompositePrimaryKey("organization", "started_at", "call_id", "revision", "sign")
    organization = models.ForeignKey(
        Organization, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False
    )
    started_at = models.DateTimeField()
    batch_id = models.BigIntegerField()
    source = models.ForeignKey(
        Source, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False
    )
    offering = models.ForeignKey(
        Offering, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False
    )
    input_tokens = models.BigIntegerField(null=True)
    cache_read_input_tokens = models.BigIntegerField(null=True)
    cache_write_input_tokens = models.BigIntegerField(null=True)
    output_tokens = models.BigIntegerField(null=True)
    reasoning_output_tokens = models.BigIntegerField(null=True)
    device_ns = models.BigIntegerField(null=True)
    device_ns_marginal = models.BigIntegerField(null=True)
    device_ns_alone = models.BigIntegerField(null=True)
    energy_uj = models.BigIntegerField(null=True)
    prefix_repeated_tokens = models.BigIntegerField(null=True)
    repeated_device_ns = models.BigIntegerField(null=True)  # device_ns, if the request was repeated
    # Latencies are facts, not quantities: they carry no sign, the rollup applies it.
    duration_ns = models.BigIntegerField(null=True)
    time_to_first_token_ns = models.BigIntegerField(null=True)
    time_per_output_token_ns = models.BigIntegerField(null=True)
    queue_ns = models.BigIntegerField(null=True)
    call_id = models.UUIDField()
    revision = models.SmallIntegerField()
    sign = models.SmallIntegerField()  # +1 counted, -1 taken back
    failed = models.BooleanField()
    usage_known = models.BooleanField()  # false: nobody said how many tokens
    contradicted = models.BooleanField()

    class Meta:
        verbose_name_plural = "entries"
        constraints = [models.CheckConstraint(condition=Q(sign__in=[1, -1]), name="entry_sign")]

    def __str__(self) -> str:
        return f"{self.call_id} r{self.revision} {self.sign:+d}"
