"""Hours whose device time is modelled, and the spans that say how."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("attribution", "0015_spans_by_asking")]

    operations = [
        migrations.CreateModel(
            name="HourToModel",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "organization",
                        "hour",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("hour", models.DateTimeField()),
                (
                    "organization",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        to="accounts.organization",
                    ),
                ),
            ],
        ),
        migrations.AddIndex(
            "span",
            models.Index(
                fields=["organization", "started_at"],
                condition=models.Q(("decode_ns__isnull", False), ("device_ns__isnull", True)),
                name="span_by_phases",
            ),
        ),
    ]
