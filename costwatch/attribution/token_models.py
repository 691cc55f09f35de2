"""What metrics say was used, where no spans are sent.

    TokenStream     one series of a metric that counts tokens or calls
    TokenHour       the readings of a stream in an hour: facts
    SpannedHour     in which hours spans of a service, and of a model, were sent: facts
    MetricUse       what is counted of metrics, append-only and signed, as the ledger is

models.py names them, so that Django finds them.
"""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q

from collectors.observation import Meter, Vantage
from costwatch.accounts.models import IngestKey, Organization


class TokenStream(models.Model):
    """One series of a metric, since one beginning. A process that starts again has other streams."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, db_index=False)
    digest = models.UUIDField()  # of the key, the series and, where it is cumulative, its beginning
    process = models.UUIDField()  # who reports: service, environment, instance and vantage
    key = models.ForeignKey(IngestKey, on_delete=models.PROTECT, db_index=False)
    vantage = models.CharField(max_length=16)
    service_name = models.CharField(max_length=255)
    environment = models.CharField(max_length=255)
    scope = models.CharField(max_length=255)
    family = models.CharField(max_length=255)
    meter = models.CharField(max_length=16)
    is_cumulative = models.BooleanField()
    started_unix_ns = models.BigIntegerField()  # 0: not said
    source = models.ForeignKey("attribution.Source", on_delete=models.CASCADE, db_index=False)
    offering = models.ForeignKey("attribution.Offering", on_delete=models.CASCADE, db_index=False)
    first_hour = models.DateTimeField()  # nothing that it counted lies before
    last_hour = models.DateTimeField()  # nor after
    models_said = ArrayField(models.CharField(max_length=255))  # as gaps.model_key writes them

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["organization", "digest"], name="token_stream_unique"),
            models.CheckConstraint(
                condition=Q(meter__in=[meter.value for meter in Meter]), name="token_stream_meter"
            ),
            models.CheckConstraint(
                condition=Q(vantage__in=[vantage.value for vantage in Vantage]),
                name="token_stream_vantage",
            ),
        ]
        indexes = [
            models.Index(fields=["organization", "process"], name="token_stream_by_process"),
            models.Index(
                fields=["organization", "vantage", "service_name", "last_hour"],
                name="token_stream_by_service",
            ),
            models.Index(fields=["last_hour"], name="token_stream_by_hour"),
        ]

    def __str__(self) -> str:
        return f"{self.family} {self.meter} of {self.service_name}"


class TokenHour(models.Model):
    """What a stream said in an hour, as far as it tells what was used in which hour.

    Of a cumulative stream the first and the last reading: time, tokens, calls. Of a delta stream all points that touch
    the hour: start, time, tokens, calls.
    """

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, db_index=False)
    stream = models.ForeignKey(TokenStream, on_delete=models.CASCADE, db_index=False)
    hour = models.DateTimeField()
    numbers = ArrayField(models.BigIntegerField())

    class Meta:
        constraints = [models.UniqueConstraint(fields=["stream", "hour"], name="token_hour_unique")]
        indexes = [models.Index(fields=["hour"], name="token_hour_by_hour")]

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H} of stream {self.stream_id}"


class SpannedHour(models.Model):
    """An hour in which a call was under way of which a span was sent, by service and model, and from where it was seen.

    model   as gaps.model_key writes it; empty: the span names none.
    """

    pk = models.CompositePrimaryKey(
        "organization", "hour", "service_name", "environment", "model", "vantage"
    )
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, db_index=False)
    hour = models.DateTimeField()
    service_name = models.CharField(max_length=255)
    environment = models.CharField(max_length=255)
    model = models.CharField(max_length=255)
    vantage = models.CharField(max_length=16)

    class Meta:
        indexes = [models.Index(fields=["hour"], name="spanned_hour_by_hour")]

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H} {self.service_name} {self.model}"


class MetricUse(models.Model):
    """What is counted of a process's metrics in an hour, or taken back: rows are added, never edited."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, db_index=False)
    batch_id = models.BigIntegerField()
    hour = models.DateTimeField()
    process = models.UUIDField()
    vantage = models.CharField(max_length=16)
    source = models.ForeignKey("attribution.Source", on_delete=models.CASCADE, db_index=False)
    offering = models.ForeignKey("attribution.Offering", on_delete=models.CASCADE, db_index=False)
    calls = models.BigIntegerField()
    input_tokens = models.BigIntegerField()
    cache_read_input_tokens = models.BigIntegerField()
    cache_write_input_tokens = models.BigIntegerField()
    output_tokens = models.BigIntegerField()
    reasoning_output_tokens = models.BigIntegerField()

    class Meta:
        indexes = [
            models.Index(fields=["organization", "hour", "process"], name="metric_use_by_hour")
        ]

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H} {self.calls:+d} calls"
