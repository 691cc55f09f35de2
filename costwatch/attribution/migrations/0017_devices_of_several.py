"""A device that several tell of is counted once an hour: what was told is kept apart from what follows of it.

What was counted before is taken as told by one: hours of shared devices that are over stay as they were.
"""

from django.db import migrations, models
from django.db.models import F, Value
from django.db.models.functions import Greatest

_ATTRIBUTED = F("told_attributed_ns") + F("modelled_ns")
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
_IDLE = Greatest(
    _PASSED - _ATTRIBUTED - _UNATTRIBUTED,
    Value(0, output_field=models.BigIntegerField()),
    output_field=models.BigIntegerField(),
)
_FOLLOWS = {
    "attributed_ns": _ATTRIBUTED,
    "unattributed_ns": _UNATTRIBUTED,
    "idle_ns": _IDLE,
    "wall_ns": _ATTRIBUTED + _UNATTRIBUTED + _IDLE,
}
_TOLD = ("told_attributed_ns", "told_unattributed_ns", "told_idle_ns")
_NEW = (*_TOLD, "observed_busy_ns", "overlap_ns", "modelled_ns")


class Migration(migrations.Migration):
    dependencies = [("attribution", "0016_modelled_device_time")]

    operations = [
        *(
            migrations.AddField("capacityhour", name, models.BigIntegerField(db_default=0))
            for name in _NEW
        ),
        migrations.RunSQL(
            "UPDATE attribution_capacityhour SET told_attributed_ns = attributed_ns, "
            "told_unattributed_ns = unattributed_ns, told_idle_ns = idle_ns",
            migrations.RunSQL.noop,
        ),
        migrations.RemoveConstraint("capacityhour", "capacity_conserved"),
        *(migrations.RemoveField("capacityhour", name) for name in _FOLLOWS),
        *(
            migrations.AddField(
                "capacityhour",
                name,
                models.GeneratedField(
                    expression=expression,
                    output_field=models.BigIntegerField(),
                    db_persist=True,
                ),
            )
            for name, expression in _FOLLOWS.items()
        ),
        migrations.AddField("devicestream", "busy_ns", models.BigIntegerField(db_default=0)),
        migrations.AddIndex(
            "devicestream",
            models.Index(
                fields=["organization", "device_id", "counted_unix_ns"],
                name="device_stream_by_time",
            ),
        ),
    ]
