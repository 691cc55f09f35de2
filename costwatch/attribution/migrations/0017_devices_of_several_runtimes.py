"""A device that several runtimes share is counted once an hour, not once for each of them.

What was counted before is taken as told by one: hours of shared devices that are over stay as they were.
"""

from django.db import migrations, models
from django.db.models import F, Q
from django.db.models.functions import Greatest


class Migration(migrations.Migration):
    dependencies = [("attribution", "0016_modelled_device_time")]

    operations = [
        migrations.AddField(
            "capacityhour",
            "told_idle_ns",
            models.BigIntegerField(default=0),
            preserve_default=False,
        ),
        migrations.AddField("capacityhour", "overlap_ns", models.BigIntegerField(db_default=0)),
        migrations.RunSQL(
            "UPDATE attribution_capacityhour SET told_idle_ns = idle_ns", migrations.RunSQL.noop
        ),
        migrations.AddConstraint(
            "capacityhour",
            models.CheckConstraint(
                condition=Q(idle_ns=Greatest(F("told_idle_ns") - F("overlap_ns"), 0)),
                name="capacity_idle_once",
            ),
        ),
        migrations.AddIndex(
            "devicestream",
            models.Index(
                fields=["organization", "device_id", "counted_unix_ns"],
                name="device_stream_by_time",
            ),
        ),
    ]
