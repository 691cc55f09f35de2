"""An hour's sums: what pages, the API and budgets read. Written by rollups.py and its neighbours in SQL.

    UsageHour, LatencyHour      of ledger entries, per source and offering
    CapacityHour                devices' wall time; DeviceStream: how far it has been counted
    HourToModel                 hours whose device time is to be modelled, again or for the first time
    IngestHour, LagHour         what was taken and what was refused, and how late

models.py names them, so that Django finds them.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import F, Q, Value
from django.db.models.expressions import Combinable, Expression
from django.db.models.functions import Greatest

from costwatch.accounts.models import IngestKey, Organization

if TYPE_CHECKING:
    _IntegerField = models.Field[int, int]
else:
    _IntegerField = models.Field


class WholeNumberField(_IntegerField):
    """A whole number of up to 38 digits: a sum that no number of calls, however absurd each, can overflow."""

    def db_type(self, connection: BaseDatabaseWrapper) -> str:
        return "numeric(38, 0)"

    def from_db_value(
        self, value: Decimal | None, expression: object, connection: BaseDatabaseWrapper
    ) -> int | None:
        return None if value is None else int(value)

    def to_python(self, value: Any) -> int | None:
        return None if value is None else int(value)


class UsageHour(models.Model):
    """An hour's sums of ledger entries per source and offering."""

    pk = models.CompositePrimaryKey("organization", "hour", "source", "offering")
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, db_index=False)
    hour = models.DateTimeField()
    source = models.ForeignKey("attribution.Source", on_delete=models.CASCADE, db_index=False)
    offering = models.ForeignKey("attribution.Offering", on_delete=models.CASCADE, db_index=False)
    calls = models.BigIntegerField()
    failed_calls = models.BigIntegerField()
    unknown_usage_calls = models.BigIntegerField()
    contradicted_calls = models.BigIntegerField()
    input_tokens = WholeNumberField()
    cache_read_input_tokens = WholeNumberField()
    cache_write_input_tokens = WholeNumberField()
    output_tokens = WholeNumberField()
    reasoning_output_tokens = WholeNumberField()
    device_ns = WholeNumberField()
    device_ns_marginal = WholeNumberField()
    device_ns_alone = WholeNumberField()
    energy_uj = WholeNumberField()
    prefix_repeated_tokens = WholeNumberField()
    repeated_device_ns = WholeNumberField()

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H} {self.calls} calls"


class LatencyHour(models.Model):
    """An hour's latencies per source and offering, as a sparse logarithmic histogram (domain/latency.py)."""

    class Measure(models.TextChoices):
        DURATION = "duration"
        TIME_TO_FIRST_TOKEN = "time_to_first_token"
        TIME_PER_OUTPUT_TOKEN = "time_per_output_token"
        QUEUE = "queue"

    pk = models.CompositePrimaryKey(
        "organization", "hour", "source", "offering", "measure", "bucket"
    )
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, db_index=False)
    hour = models.DateTimeField()
    source = models.ForeignKey("attribution.Source", on_delete=models.CASCADE, db_index=False)
    offering = models.ForeignKey("attribution.Offering", on_delete=models.CASCADE, db_index=False)
    measure = models.CharField(max_length=24, choices=Measure.choices)
    bucket = models.SmallIntegerField()
    calls = models.BigIntegerField()

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(
                    measure__in=[
                        "duration",
                        "time_to_first_token",
                        "time_per_output_token",
                        "queue",
                    ]
                ),
                name="latency_measure",
            )
        ]

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H} {self.measure} {self.bucket}: {self.calls}"


_NONE = Value(0, output_field=models.BigIntegerField())
_ATTRIBUTED = F("told_attributed_ns") + F("modelled_ns")
# What the device was busy with beyond what anybody accounts for: other programs, or work that runtimes don't tell of.
_UNATTRIBUTED = Greatest(
    F("told_unattributed_ns"),
    F("observed_busy_ns") - F("told_attributed_ns") - F("modelled_ns"),
    output_field=models.BigIntegerField(),
)
_PASSED = (
    F("told_attributed_ns")
    + F("told_unattributed_ns")
    + F("observed_busy_ns")
    + F("told_idle_ns")
    - F("overlap_ns")
)
# Where they claim more than passed, nothing is idle.
_IDLE = Greatest(
    _PASSED - _ATTRIBUTED - _UNATTRIBUTED, _NONE, output_field=models.BigIntegerField()
)


def _follows(expression: Combinable) -> models.GeneratedField:
    return models.GeneratedField(
        expression=cast(Expression, expression),
        output_field=models.BigIntegerField(),
        db_persist=True,
    )


class DeviceStream(models.Model):
    """How far one process's clock of one device has been counted into CapacityHour."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE)
    service_name = models.CharField(max_length=255)
    instance_id = models.CharField(max_length=255)  # one process; a restart is a new stream
    device_id = models.CharField(max_length=255)
    device_type = models.CharField(max_length=255)
    started_unix_ns = models.BigIntegerField()
    counted_unix_ns = models.BigIntegerField()
    attributed_ns = models.BigIntegerField()
    unattributed_ns = models.BigIntegerField()
    idle_ns = models.BigIntegerField()
    busy_ns = models.BigIntegerField(db_default=0)  # of a watcher's, which knows not whose it is

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "instance_id", "device_id", "started_unix_ns"],
                name="device_stream_unique",
            )
        ]
        indexes = [
            models.Index(
                fields=["organization", "device_id", "counted_unix_ns"],
                name="device_stream_by_time",
            )
        ]

    def __str__(self) -> str:
        return f"{self.device_id} of {self.service_name}"


class CapacityHour(models.Model):
    """A device's wall-clock time in an hour, from all who tell of it (see capacity.py).

    What was told, as sums over everybody who told it:

    told_attributed_ns, told_unattributed_ns   by runtimes that measure their own steps
    observed_busy_ns     by an agent that watches the device, whoever made it busy
    told_idle_ns         by either
    overlap_ns           time that had been told of by another before
    modelled_ns          what runtimes that do not measure were found to have used (modelled.py)

    What follows, in Postgres itself: attributed + unattributed + idle is the wall time, to the nanosecond.
    """

    pk = models.CompositePrimaryKey("organization", "hour", "device_id", "device_type")
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, db_index=False)
    hour = models.DateTimeField()
    device_id = models.CharField(max_length=255)
    device_type = models.CharField(max_length=255)
    told_attributed_ns = models.BigIntegerField(db_default=0)
    told_unattributed_ns = models.BigIntegerField(db_default=0)
    told_idle_ns = models.BigIntegerField(db_default=0)
    observed_busy_ns = models.BigIntegerField(db_default=0)
    overlap_ns = models.BigIntegerField(db_default=0)
    modelled_ns = models.BigIntegerField(db_default=0)
    attributed_ns = _follows(_ATTRIBUTED)
    unattributed_ns = _follows(_UNATTRIBUTED)
    idle_ns = _follows(_IDLE)
    wall_ns = _follows(_ATTRIBUTED + _UNATTRIBUTED + _IDLE)

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H} {self.device_id}"

    @property
    def passed_ns(self) -> int:
        """How much of the hour was told of, by anybody: _PASSED, of a row that was read."""
        told_ns = self.told_attributed_ns + self.told_unattributed_ns + self.told_idle_ns
        return told_ns + self.observed_busy_ns - self.overlap_ns


class HourToModel(models.Model):
    """An hour in which runtimes were seen and something has changed since modelled.py looked at it."""

    pk = models.CompositePrimaryKey("organization", "hour")
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, db_index=False)
    hour = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H}"


class IngestHour(models.Model):
    """What one key sent in an hour, by what became of it: counted, duplicate, link, wrapper, refused and why."""

    pk = models.CompositePrimaryKey("organization", "hour", "key", "outcome")
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, db_index=False)
    hour = models.DateTimeField()
    key = models.ForeignKey(IngestKey, on_delete=models.CASCADE, db_index=False)
    outcome = models.CharField(max_length=255)
    items = models.BigIntegerField()
    example = models.CharField(max_length=255, db_default="")  # one of the items, by its id

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H} {self.outcome}: {self.items}"


class LagHour(models.Model):
    """How late what one key sent in an hour was. Sums and the longest, in milliseconds; a clock ahead makes zero.

    Of each body with new calls counts the one that ended first: it waited longest, in the sender's queue and on the
    way. Added is what changed a sum and is in the rollups by now.
    """

    pk = models.CompositePrimaryKey("organization", "hour", "key")
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, db_index=False)
    hour = models.DateTimeField()
    key = models.ForeignKey(IngestKey, on_delete=models.CASCADE, db_index=False)
    bodies = models.BigIntegerField(default=0)
    arrival_ms = models.BigIntegerField(default=0)  # from a call's end until it was received
    longest_arrival_ms = models.BigIntegerField(default=0)
    added_bodies = models.BigIntegerField(default=0)
    adding_ms = models.BigIntegerField(default=0)  # from then until it was in the rollups
    longest_adding_ms = models.BigIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H} {self.bodies} bodies"
